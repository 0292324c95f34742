"""Datasets, order of the data, and collator of a run."""

from __future__ import annotations

import json
import logging
import zlib
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import Dataset

from cambrian_gaze.data.collator import Collator
from cambrian_gaze.data.dataset import SampleOptions
from cambrian_gaze.data.media.video import FrameSampling
from cambrian_gaze.data.mixture.lengths import MISSING_VIDEO, measure_mixture
from cambrian_gaze.data.mixture.mixture import Mixture, MixtureDataset
from cambrian_gaze.data.mixture.plan import EpochOrder
from cambrian_gaze.data.mixture.recipe import recipe_of, with_system
from cambrian_gaze.data.mixture.recipe_file import RecipeError
from cambrian_gaze.data.mixture.selection import Selection, excluded_rows, select
from cambrian_gaze.data.mixture.streams import StreamDataset, StreamOrder
from cambrian_gaze.data.quarantine import ExpectedMissing, QuarantineLog, TooManyQuarantined, read_list
from cambrian_gaze.training.config.arguments import DataArguments, TrainingArguments

logger = logging.getLogger(__name__)


def build_datasets(args: DataArguments, processor: Any, quarantine: QuarantineLog) -> tuple[Dataset, Dataset | None]:
    """Training and evaluation data; None without `eval_data_path`. Nothing but the files' row index is read here."""
    if not args.data_path:
        raise ValueError("data_path is missing: name recipes, or JSON, JSONL or Parquet files of conversations")
    train = build_dataset(args, args.data_path, processor, quarantine)
    evaluation = build_dataset(args, args.eval_data_path, processor, quarantine) if args.eval_data_path else None
    return train, evaluation


def frame_sampling(args: DataArguments) -> FrameSampling:
    """Which frames of a video the run sees."""
    return FrameSampling(
        args.video_fps, args.video_max_frames, args.video_force_sample, args.video_backend, args.video_timeout
    )


def build_dataset(
    args: DataArguments, paths: list[str], processor: Any, quarantine: QuarantineLog
) -> MixtureDataset | StreamDataset:
    """The mixture of recipes and data files, or their stream. Raises RecipeError where only some are streamed."""
    recipe = with_system(recipe_of(paths, args.image_folder, args.video_folder), processor)
    options = SampleOptions(
        sampling=frame_sampling(args),
        max_length=args.max_length,
        overlong=args.overlong,
        max_pixels=args.max_pixels,
        image_position=args.image_position,
    )
    streamed = [source for source in recipe.sources if source.streaming]
    if not streamed:
        return MixtureDataset(Mixture(recipe), processor, options, quarantine)
    if len(streamed) < len(recipe.sources):
        first = streamed[0]
        raise RecipeError(f"{first.origin}: {first.path} is streamed and others are not; stream all or none")
    return StreamDataset(streamed, processor, options, quarantine)


def build_order(
    data: DataArguments, args: TrainingArguments, dataset: MixtureDataset | StreamDataset, quarantine: QuarantineLog
) -> EpochOrder:
    """Which rows the run reads, and in which order. With packing, tokens are counted where no table has them yet.

    Raises: ValueError for an unknown sampling strategy, or lists that name nothing of the data; TooManyQuarantined.
    """
    strategy = args.train_sampling_strategy
    if strategy not in ("random", "sequential"):
        raise ValueError(
            f"train_sampling_strategy={strategy} is not offered; use random or sequential, and packing against padding"
        )
    if isinstance(dataset, StreamDataset):
        return _stream_order(data, args, dataset)
    excluded = None
    if data.exclude:
        entries = [entry for path in data.exclude for entry in read_list(path)]
        excluded = excluded_rows(dataset.mixture, entries, ", ".join(data.exclude))
    measures = _measure_on_all_ranks(dataset, args) if data.packing else None
    processor = dataset.parts[0].processor
    height, width = processor.grid_hw
    selection = select(
        len(dataset),
        excluded,
        measures,
        max_length=data.max_length,
        overlong=data.overlong,
        frame_tokens=height * width + processor.num_context_tokens,
    )
    _report(selection, data, dataset, quarantine if args.process_index == 0 else None)
    order = EpochOrder(
        selection.rows,
        seed=args.seed if args.data_seed is None else args.data_seed,
        shuffle=strategy == "random",
        lengths=selection.lengths,
        units=selection.units,
        left_out={reason: len(rows) for reason, rows in selection.left_out.items()},
        capacity=data.max_length if data.packing else None,
    )
    if args.world_size > 1:
        _check_same_on_all_ranks(order, args)
    return order


def expected_missing(dataset: MixtureDataset | StreamDataset, args: TrainingArguments) -> ExpectedMissing:
    """What the sources declare as missing, for the limit of quarantined samples."""
    shuffled = args.train_sampling_strategy == "random"
    if isinstance(dataset, MixtureDataset):
        return ExpectedMissing(dataset.mixture.expected_missing(), len(dataset), shuffled)
    facts = [source.expected for source in dataset.sources if source.expected.get("rows")]
    shares = [min(1.0, counts.get("missing", 0) / counts["rows"]) for counts in facts]
    return ExpectedMissing(max(shares, default=0.0) * len(dataset), len(dataset), shuffled=False)


def _stream_order(data: DataArguments, args: TrainingArguments, dataset: StreamDataset) -> StreamOrder:
    """Raises ValueError for what a stream cannot do."""
    if data.packing or data.exclude:
        raise ValueError("packing and exclude need to know the rows; leave them out, or drop `streaming`")
    if args.max_steps < 1 or args.dataloader_num_workers > 1:
        raise ValueError(
            f"a stream has no end and one reader: set max_steps (now {args.max_steps}) and dataloader_num_workers to 0 "
            f"or 1 (now {args.dataloader_num_workers})"
        )
    places = args.max_steps * args.global_batch_size
    dataset.share(args.data_parallel_rank, args.data_parallel_size, places)
    return StreamOrder(dataset, places)


def _measure_on_all_ranks(dataset: MixtureDataset, args: TrainingArguments) -> np.ndarray:
    """The table of lengths, the same on every rank. The first process of a machine to ask for it counts."""
    first = args.process_index == 0
    measures = measure_mixture(dataset, retry=first)
    if args.world_size > 1:
        dist.barrier()  # The first rank has tried again what failed before.
        measures = measures if first else measure_mixture(dataset)
    return measures


def _check_same_on_all_ranks(order: EpochOrder, args: TrainingArguments) -> None:
    """Raises ValueError on all ranks where they would read different plans."""
    mark = zlib.crc32(json.dumps(order.fingerprint()).encode())
    bounds = torch.tensor([mark, -mark], device=args.device)
    dist.all_reduce(bounds, dist.ReduceOp.MAX)
    if bounds[0] != -bounds[1]:
        raise ValueError(
            "the ranks do not see the same data: a file, a video or a table of lengths differs between machines; give "
            "all of them the same files, and delete the `.lengths` tables beside the data"
        )


def _report(
    selection: Selection, data: DataArguments, dataset: MixtureDataset, quarantine: QuarantineLog | None
) -> None:
    """Say what is left out; the first rank, the one with `quarantine`, logs why. Raises TooManyQuarantined on all."""
    counts = {reason: len(rows) for reason, rows in selection.left_out.items()}
    logged = [rows for reason, rows in selection.left_out.items() if reason == "unreadable"]
    if data.overlong != "drop":
        logged += [rows for reason, rows in selection.left_out.items() if reason == "overlong"]
    faults = np.concatenate(logged) if logged else np.zeros(0, dtype=np.int64)
    if quarantine is not None:
        for row in faults.tolist():
            quarantine.add(dataset.fault(row))
        if any(counts.values()) or selection.shortened:
            logger.warning(
                "%d of %d rows are read; left out: %s; with less text or fewer frames: %d",
                *(len(selection.rows), len(dataset)),
                *(", ".join(f"{count} {reason}" for reason, count in counts.items()) or "none", selection.shortened),
            )
    considered = len(dataset) - counts.get("excluded", 0)
    # Over-long samples are no damage, whatever their number; what a recipe declares as missing is none either.
    damaged = counts.get("unreadable", 0) - _declared(selection, dataset)
    if damaged > data.max_quarantined_share * considered:
        raise TooManyQuarantined(
            f"{damaged} of {considered} samples ({damaged / considered:.1%}) cannot be used, more than "
            f"max_quarantined_share={data.max_quarantined_share:.1%}. The quarantine log says why for each; "
            "correct the data, or raise the limit"
        )
    overlong = counts.get("overlong", 0)
    if quarantine is not None and overlong > data.max_quarantined_share * considered:
        logger.warning(
            "%d of %d samples are longer than max_length %d and are left out; raise it, or set overlong",
            *(overlong, considered, data.max_length),
        )


def _declared(selection: Selection, dataset: MixtureDataset) -> int:
    """Of the rows left out as unreadable, those whose media are missing as their source declares."""
    if selection.lengths is None:
        return 0
    rows = selection.left_out["unreadable"]
    sources, _ = dataset.mixture.locate_all(rows)
    declares = np.array([part.expects_missing for part in dataset.parts])
    missing = int(((selection.lengths[rows] == MISSING_VIDEO) & declares[sources]).sum())
    return missing - ExpectedMissing(dataset.mixture.expected_missing(), len(dataset)).beyond(missing, len(dataset))


def build_collator(args: DataArguments, processor: Any) -> Collator:
    """Right-padded batches."""
    return Collator(pad_token_id=processor.tokenizer.pad_token_id, max_length=args.max_length)
