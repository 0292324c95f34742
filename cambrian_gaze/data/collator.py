"""Samples to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cambrian_gaze.data.mixture.plan import Pack
from cambrian_gaze.data.quarantine import Dropped, Quarantined
from cambrian_gaze.gaze.token_types import IGNORED_LABEL, IMAGE_TYPE, TEXT_TYPE, VIDEO_TYPE


@dataclass(frozen=True)
class Origin:
    """Where a sample of a batch comes from."""

    file: str
    row: int
    id: str
    source: str
    modality: str
    """`video`, `image` or `text`: the first of these that it holds."""

    @classmethod
    def of(cls, sample: dict[str, Any]) -> Origin:
        """Of a sample as `ConversationDataset` gives it."""
        present = set(sample["mm_token_type_ids"].unique().tolist())
        modality = "video" if VIDEO_TYPE in present else "image" if IMAGE_TYPE in present else "text"
        facts = {"file": "", "row": 0, "id": "", "source": ""}
        return cls(**{name: sample.get(name, default) for name, default in facts.items()}, modality=modality)


@dataclass(frozen=True)
class Collator:
    """Samples and packs to rows of one length, with their pictures in order; quarantined ones are left out, counted."""

    pad_token_id: int
    padding_side: str = "right"
    """"right" for training, "left" for generation."""
    max_length: int | None = None
    """A row that is longer is an error: the dataset's `max_length` should have dealt with it."""
    pad_to_multiple_of: int = 1
    """Keeps the number of different shapes small (compiled models)."""

    def __post_init__(self) -> None:
        if self.padding_side not in ("left", "right"):
            raise ValueError(f'padding_side={self.padding_side!r} is unknown; use "left" or "right"')

    def __call__(self, items: Sequence[dict[str, Any] | Quarantined | Pack]) -> dict[str, Any]:
        """`input_ids`, `attention_mask`, `mm_token_type_ids`, `labels` (int64 [B, S]); `pixel_values` (float32
        [units, 3, H, W]) and `grid_thw` (int64 [items, 3]) where the batch has pictures; `sample_ids` (int64 [B, S], -1
        for padding) where a row holds several samples.

        Counts (int): `num_samples`; `num_quarantined`, samples left out as unusable; `num_filled`, how many of their
        places another sample took; `num_overlong`, samples that the policy for over-long ones dropped or shortened. Of
        those left out, `num_declared` miss media as their recipe declares, and `num_too_long` are too long.

        `samples`: per row the `Origin` of each of its samples.

        `stream_state` (str), that of the last item, where the data is streamed.

        An item without samples gives no row. A batch of which nothing is left holds one unsupervised text row, so that
        every rank takes part in the step.
        """
        packs = [_as_pack(item) for item in items]
        rows = [pack.samples for pack in packs if pack.samples]
        samples = [sample for row in rows for sample in row]
        batch: dict[str, Any] = self._pad([_join(row) for row in rows] or [self._blank()])
        if any(len(row) > 1 for row in rows):
            batch["sample_ids"] = _sample_ids(rows, batch["attention_mask"], self.padding_side)
        for key in ("pixel_values", "grid_thw"):
            if parts := [sample[key] for sample in samples if key in sample]:
                batch[key] = torch.cat(parts)
        if states := [pack.stream_state for pack in packs if pack.stream_state is not None]:
            batch["stream_state"] = states[-1]
        batch["samples"] = [[Origin.of(sample) for sample in row] for row in rows]
        lost = [item for pack in packs for item in pack.lost]
        dropped = sum(isinstance(item, Dropped) for item in lost)
        batch["num_samples"] = len(samples)
        batch["num_quarantined"] = len(lost) - dropped
        batch["num_declared"] = sum(item.declared for item in lost)
        batch["num_too_long"] = sum(item.kind == "overlong" for item in lost) - dropped
        batch["num_filled"] = sum(pack.filled for pack in packs)
        batch["num_overlong"] = dropped + sum("overlong" in sample for sample in samples)
        return batch

    def _pad(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(sample["input_ids"]) for sample in samples)
        if self.max_length is not None and longest > self.max_length:
            raise ValueError(
                f"a row of {longest} tokens exceeds max_length {self.max_length}; give the dataset the same max_length"
            )
        shape = (len(samples), -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of)
        batch = {
            "input_ids": torch.full(shape, self.pad_token_id),
            "attention_mask": torch.zeros(shape, dtype=torch.int64),
            "mm_token_type_ids": torch.full(shape, TEXT_TYPE),
            "labels": torch.full(shape, IGNORED_LABEL),
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
        types, labels = torch.full_like(ids, TEXT_TYPE), torch.full_like(ids, IGNORED_LABEL)
        return {"input_ids": ids, "mm_token_type_ids": types, "labels": labels}


def _as_pack(item: dict[str, Any] | Quarantined | Pack) -> Pack:
    if isinstance(item, Pack):
        return item
    return Pack([], [item]) if isinstance(item, Quarantined) else Pack([item])


def _join(samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """One row of several samples. The first token of each is not predicted, since none of its sample comes before."""
    if len(samples) == 1:
        return samples[0]
    row = {key: torch.cat([sample[key] for sample in samples]) for key in ("input_ids", "mm_token_type_ids", "labels")}
    start = 0
    for sample in samples:
        row["labels"][start] = IGNORED_LABEL
        start += len(sample["input_ids"])
    return row


def _sample_ids(
    rows: Sequence[Sequence[dict[str, Any]]], attention_mask: torch.Tensor, padding_side: str
) -> torch.Tensor:
    ids = torch.full_like(attention_mask, -1)
    for row, samples in enumerate(rows):
        lengths = torch.tensor([len(sample["input_ids"]) for sample in samples])
        start = 0 if padding_side == "right" else ids.shape[1] - int(lengths.sum())
        ids[row, start : start + int(lengths.sum())] = torch.arange(len(samples)).repeat_interleave(lengths)
    return ids
