"""Datasets and collator of a run."""

from __future__ import annotations

from typing import Any

from torch.utils.data import ConcatDataset, Dataset

from cambrian_gaze.data.collator import Collator
from cambrian_gaze.data.dataset import ConversationDataset
from cambrian_gaze.data.quarantine import QuarantineLog
from cambrian_gaze.data.records import read_records
from cambrian_gaze.data.video import FrameSampling
from cambrian_gaze.training.arguments import DataArguments


def build_datasets(args: DataArguments, processor: Any, quarantine: QuarantineLog) -> tuple[Dataset, Dataset | None]:
    """Training and evaluation data; None without `eval_data_path`. Nothing but the files' row index is read here."""
    if not args.data_path:
        raise ValueError("data_path is missing: name one or several JSON or JSONL files of conversations")
    train = build_dataset(args, args.data_path, processor, quarantine)
    evaluation = build_dataset(args, args.eval_data_path, processor, quarantine) if args.eval_data_path else None
    return train, evaluation


def build_dataset(args: DataArguments, paths: list[str], processor: Any, quarantine: QuarantineLog) -> Dataset:
    """The records of several files, one after the other."""
    parts = [
        ConversationDataset(
            read_records(path),
            processor,
            args.image_folder,
            args.video_folder,
            sampling=FrameSampling(args.video_fps, args.video_max_frames, args.video_force_sample),
            max_length=args.max_length,
            overlong=args.overlong,
            quarantine=quarantine,
            max_pixels=args.max_pixels,
        )
        for path in paths
    ]
    return parts[0] if len(parts) == 1 else ConcatDataset(parts)


def build_collator(args: DataArguments, processor: Any) -> Collator:
    """Right-padded batches."""
    return Collator(pad_token_id=processor.tokenizer.pad_token_id, max_length=args.max_length)
