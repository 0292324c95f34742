"""Samples to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cambrian_gaze.data.encode import IGNORE
from cambrian_gaze.data.expand import TEXT
from cambrian_gaze.data.quarantine import Quarantined


@dataclass(frozen=True)
class Collator:
    """Pads samples to one length and puts their pictures in order; drops and counts quarantined ones."""

    pad_token_id: int
    padding_side: str = "right"
    """"right" for training, "left" for generation."""
    max_length: int | None = None
    """A sample that is longer is an error: the dataset's `max_length` should have dealt with it."""
    pad_to_multiple_of: int = 1
    """Keeps the number of different shapes small (compiled models)."""

    def __post_init__(self) -> None:
        if self.padding_side not in ("left", "right"):
            raise ValueError(f'padding_side={self.padding_side!r} is unknown; use "left" or "right"')

    def __call__(self, samples: Sequence[dict[str, Any] | Quarantined]) -> dict[str, Any]:
        """`input_ids`, `attention_mask`, `mm_token_type_ids`, `labels` (int64 [B, S]); `pixel_values` (float32
        [units, 3, H, W]) and `grid_thw` (int64 [items, 3]) where the batch has pictures; `num_quarantined` (int).

        A batch of which nothing is left holds one unsupervised text row, so that every rank takes part in the step.
        """
        kept = [sample for sample in samples if not isinstance(sample, Quarantined)]
        batch: dict[str, Any] = self._pad(kept or [self._blank()])
        for key in ("pixel_values", "grid_thw"):
            if parts := [sample[key] for sample in kept if key in sample]:
                batch[key] = torch.cat(parts)
        batch["num_quarantined"] = len(samples) - len(kept)
        return batch

    def _pad(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(sample["input_ids"]) for sample in samples)
        if self.max_length is not None and longest > self.max_length:
            raise ValueError(
                f"a sample of {longest} tokens exceeds max_length {self.max_length}; "
                "give the dataset the same max_length"
            )
        shape = (len(samples), -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of)
        batch = {
            "input_ids": torch.full(shape, self.pad_token_id),
            "attention_mask": torch.zeros(shape, dtype=torch.int64),
            "mm_token_type_ids": torch.full(shape, TEXT),
            "labels": torch.full(shape, IGNORE),
        }
        for row, sample in enumerate(samples):
            length = len(sample["input_ids"])
            place = slice(0, length) if self.padding_side == "right" else slice(shape[1] - length, None)
            for key in ("input_ids", "mm_token_type_ids", "labels"):
                batch[key][row, place] = sample[key]
            batch["attention_mask"][row, place] = 1
        return batch

    def _blank(self) -> dict[str, torch.Tensor]:
        # Two tokens: one position is left when labels are shifted by the loss.
        ids = torch.full((2,), self.pad_token_id)
        types, labels = torch.full_like(ids, TEXT), torch.full_like(ids, IGNORE)
        return {"input_ids": ids, "mm_token_type_ids": types, "labels": labels}
