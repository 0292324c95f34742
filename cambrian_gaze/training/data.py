"""Datasets and collator of a run."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from cambrian_gaze.data.collator import Collator
from cambrian_gaze.data.mixture import Mixture, recipe_of
from cambrian_gaze.data.mixture_dataset import MixtureDataset
from cambrian_gaze.data.quarantine import QuarantineLog
from cambrian_gaze.data.video import FrameSampling
from cambrian_gaze.training.arguments import DataArguments


def build_datasets(args: DataArguments, processor: Any, quarantine: QuarantineLog) -> tuple[Dataset, Dataset | None]:
    """Training and evaluation data; None without `eval_data_path`. Nothing but the files' row index is read here."""
    if not args.data_path:
        raise ValueError("data_path is missing: name recipes, or JSON, JSONL or Parquet files of conversations")
    train = build_dataset(args, args.data_path, processor, quarantine)
    evaluation = build_dataset(args, args.eval_data_path, processor, quarantine) if args.eval_data_path else None
    return train, evaluation


def build_dataset(args: DataArguments, paths: list[str], processor: Any, quarantine: QuarantineLog) -> MixtureDataset:
    """The mixture of recipes and data files."""
    return MixtureDataset(
        Mixture(recipe_of(paths, args.image_folder, args.video_folder)),
        processor,
        sampling=FrameSampling(
            args.video_fps, args.video_max_frames, args.video_force_sample, args.video_backend, args.video_timeout
        ),
        max_length=args.max_length,
        overlong=args.overlong,
        quarantine=quarantine,
        max_pixels=args.max_pixels,
    )


def build_collator(args: DataArguments, processor: Any) -> Collator:
    """Right-padded batches."""
    return Collator(pad_token_id=processor.tokenizer.pad_token_id, max_length=args.max_length)
