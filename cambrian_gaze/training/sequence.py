"""Sequence parallelism of a training run: which ranks share a batch, and that they do read the same one."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from cambrian_gaze.attention.sequence import SequenceGroup, check_heads
from cambrian_gaze.training.config.arguments import TrainingArguments

SHARED = ("input_ids", "labels", "attention_mask", "sample_ids", "grid_thw")
"""What the ranks of a group cut up together. Of the pixels each rank reads its own share only."""


def sequence_group(args: TrainingArguments, model: PreTrainedModel) -> SequenceGroup | None:
    """This rank's group of `sequence_parallel_size` neighbouring ranks; None for a size of 1. Entered by all ranks.

    Raises: ValueError where the decoder's heads cannot be shared out.
    """
    size = args.sequence_parallel_size
    if size == 1:
        return None
    text = model.config.get_text_config()
    check_heads(text.num_attention_heads, text.num_key_value_heads, size)
    limit = timedelta(seconds=args.ddp_timeout)
    groups = [dist.new_group(range(first, first + size), timeout=limit) for first in range(0, args.world_size, size)]
    return SequenceGroup(groups[args.data_parallel_rank])


def check_same_batches(batches: Sequence[Mapping[str, Any]], group: SequenceGroup, device: torch.device) -> None:
    """Raises ValueError on all ranks of the group where they have read different batches. Synchronises."""
    mark = 0
    for batch in batches:
        for name in SHARED:
            if batch.get(name) is not None:
                mark = zlib.crc32(batch[name].cpu().contiguous().numpy(), mark)
    bounds = torch.tensor([mark, -mark], device=device)
    dist.all_reduce(bounds, dist.ReduceOp.MAX, group=group.process_group)
    if bounds[0] != -bounds[1]:
        raise ValueError(
            f"the {group.size} ranks of a sequence-parallel group have read different batches, as when a sample can be "
            "read on one machine and not on another: give all of them the same files, and raise video_timeout if "
            "quarantine.jsonl names it"
        )
