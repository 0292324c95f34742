"""The loss by source of the mixture and by modality, from the token losses of the step itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset

from cambrian_gaze.attention.sequence import SequenceGroup, pad_to
from cambrian_gaze.data.mixture.streams import StreamDataset
from cambrian_gaze.gaze.token_types import IGNORED_LABEL

MODALITIES = ("text", "image", "video")


def source_names(dataset: Dataset | None) -> list[str]:
    """Names of the sources of a mixture or a stream, the same on every rank."""
    sources = dataset.sources if isinstance(dataset, StreamDataset) else getattr(dataset, "mixture", None)
    sources = getattr(sources, "sources", sources) or ()
    return sorted({source.name for source in sources})


class LossSplit:
    """Sums of token losses over the steps since the last report. G groups: sources × modalities."""

    def __init__(self, sources: Iterable[str], device: torch.device) -> None:
        self.sources = list(sources)
        self._sums = torch.zeros(2, len(self.sources) * len(MODALITIES), dtype=torch.float64, device=device)
        """Sum of the token losses, and their number, by group."""
        self._step = torch.zeros_like(self._sums)

    def assign(self, batches: Iterable[dict[str, Any]], sharing: SequenceGroup | None = None) -> None:
        """Put `loss_groups` in the place of the batches' `samples`, see `groups`."""
        for batch in batches:
            batch["loss_groups"] = self.groups(batch, sharing)
            del batch["samples"]

    def groups(self, batch: Mapping[str, Any], sharing: SequenceGroup | None = None) -> Tensor:
        """int64 [n], the group of each supervised token of a collated batch, in the order of the shifted labels; of
        this rank's tokens where a sequence-parallel group shares them, sliced as the model slices its labels."""
        labels = batch["labels"]
        group = torch.zeros_like(labels)
        for row, samples in enumerate(batch["samples"]):
            numbers = torch.tensor(
                [self.sources.index(s.source) * len(MODALITIES) + MODALITIES.index(s.modality) for s in samples]
            )
            if len(samples) == 1:
                group[row] = numbers[0]
            else:
                group[row] = numbers[batch["sample_ids"][row].clamp(min=0)]
        targets, group = (
            pad_to(x[:, 1:], 1, labels.shape[1], fill) for x, fill in ((labels, IGNORED_LABEL), (group, 0))
        )
        if sharing is not None:
            targets, group = sharing.own(targets, fill=IGNORED_LABEL), sharing.own(group)
        return group[targets != IGNORED_LABEL]

    def add(self, groups: Tensor, token_losses: Tensor) -> None:
        """Count a micro-batch of the current step. Both [n], on the device; does not wait for it."""
        losses = token_losses.detach().double()
        self._step.index_add_(1, groups, torch.stack([losses, torch.ones_like(losses)]))

    def end_step(self, good: bool) -> None:
        """The step's losses count unless it was left out."""
        if good:
            self._sums += self._step
        self._step.zero_()

    def report(self) -> dict[str, float]:
        """`loss/source/NAME` and `loss/modality/NAME`: means over the window's supervised tokens of all ranks, where
        there are any. A collective; begins another window."""
        if dist.is_initialized():
            dist.all_reduce(self._sums)
        sums = self._sums.reshape(2, len(self.sources), len(MODALITIES)).tolist()
        self._sums.zero_()
        totals = {f"source/{name}": [sum(part[i]) for part in sums] for i, name in enumerate(self.sources)}
        for j, name in enumerate(MODALITIES):
            totals[f"modality/{name}"] = [sum(row[j] for row in part) for part in sums]
        return {f"loss/{name}": total / count for name, (total, count) in totals.items() if count}
