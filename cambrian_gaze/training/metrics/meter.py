"""What a batch holds, and what a window of steps achieved: tokens per second, FLOP/s, MFU, padding, lost samples."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cambrian_gaze.gaze.token_types import CONTEXT_TYPE, IGNORED_LABEL, IMAGE_TYPE, VIDEO_TYPE
from cambrian_gaze.training.metrics.flops import FlopsModel

COUNTS = (
    *("supervised", "samples", "quarantined", "filled", "overlong"),
    *("visual", "context", "text", "padding", "squared", "images"),
)
"""What `count_batch` counts, in its order. `supervised` are tokens that the shifted loss predicts; `quarantined`,
`filled` and `overlong` are the collator's; `padding` counts tokens; `squared` is the sum over samples of their length
squared; `images` counts images and frames."""

BLAMELESS = ("declared", "too_long")
"""Quarantined samples that are no damage: media missing as a recipe declares, and over-long ones; the collator's."""


NOT_FOR_THE_MODEL = ("samples", "stream_state")
"""What the collator says beside the model's inputs and its counts (`num_…`)."""


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What of a collated batch the model takes."""
    return {k: v for k, v in batch.items() if k not in NOT_FOR_THE_MODEL and not k.startswith("num_")}


def count_batch(batch: Mapping[str, Any]) -> Tensor:
    """int64 [11] on the CPU, see `COUNTS`."""
    types, labels, mask = batch["mm_token_type_ids"], batch["labels"], batch["attention_mask"]
    per_type = torch.bincount(types.flatten(), minlength=CONTEXT_TYPE + 1).tolist()
    visual, context, tokens = per_type[IMAGE_TYPE] + per_type[VIDEO_TYPE], per_type[CONTEXT_TYPE], int(mask.sum())
    counts = {
        "supervised": int((labels[:, 1:] != IGNORED_LABEL).sum()),
        **{name: batch[f"num_{name}"] for name in ("samples", "quarantined", "filled", "overlong")},
        "visual": visual,
        "context": context,
        "text": tokens - visual - context,
        "padding": mask.numel() - tokens,
        "squared": int((_sample_lengths(mask, batch.get("sample_ids")) ** 2).sum()),
        "images": batch["pixel_values"].shape[0] if batch.get("pixel_values") is not None else 0,
    }
    return torch.tensor([counts[name] for name in COUNTS])


def count_blameless(batch: Mapping[str, Any]) -> Tensor:
    """int64 [2] on the CPU, see `BLAMELESS`."""
    return torch.tensor([batch.get(f"num_{name}", 0) for name in BLAMELESS])


def _sample_lengths(mask: Tensor, sample_ids: Tensor | None) -> Tensor:
    """Tokens of each sample of a batch; of each row where nothing is packed."""
    if sample_ids is None:
        return mask.sum(1)
    most = int(sample_ids.max()) + 1
    numbers = sample_ids + most * torch.arange(len(sample_ids))[:, None]
    return torch.bincount(numbers[mask.bool()])


class Meter:
    """Sums over the steps since the last report, over all ranks, and over the whole attempt."""

    def __init__(self, flops: FlopsModel, peak: float | None, world_size: int, readers: int = 1) -> None:
        """Args:
        peak: FLOP/s of one device, or None where it is not known.
        readers: ranks that read the same batch and share its tokens; counts are of the batch, once.
        """
        self.readers = readers
        self.flops, self.peak, self.world_size = flops, peak, world_size
        self._window: Tensor | None = None
        self._steps = 0
        self._total = dict.fromkeys((*COUNTS, *BLAMELESS), 0)
        self._since = time.perf_counter()
        self._waited = 0.0

    def add(self, batches: list[Mapping[str, Any]], device: torch.device) -> Tensor:
        """Count the micro-batches of one optimizer step on all ranks. One collective, no synchronisation.

        Returns: int64 scalar on `device`, supervised tokens over all ranks and micro-batches.
        """
        counted = [torch.cat([count_batch(batch), count_blameless(batch)]) for batch in batches]
        counts = torch.stack(counted).sum(0).to(device)
        if self.world_size > 1:
            dist.all_reduce(counts)
            counts = counts // self.readers
        self._window = counts if self._window is None else self._window + counts
        self._steps += 1
        return counts[0]

    def start(self) -> None:
        """Begin a window now."""
        self._window, self._steps, self._since, self._waited = None, 0, time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for the loader."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def _worst(self, *values: float) -> list[float]:
        """The largest over the ranks of each."""
        if self.world_size == 1:
            return list(values)
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        worst = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(worst, dist.ReduceOp.MAX)
        return worst.tolist()

    @contextlib.contextmanager
    def excluded(self) -> Iterator[None]:
        """The time of the block (a checkpoint, an evaluation) is not spent on training: the window leaves it out."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - began

    def report(self) -> dict[str, float]:
        """Rates of the window that ends now; begins another. `data_wait`: share of its time that the slowest rank
        waited for its loader; `memory_gib`: peak of the fullest. Synchronises."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        names = (*COUNTS, *BLAMELESS)
        values = [0] * len(names) if self._window is None else self._window.tolist()
        window = dict(zip(names, values, strict=True))
        for name, value in window.items():
            self._total[name] += value
        steps = max(1, self._steps)
        achieved = self.flops.total(
            window["visual"] + window["context"] + window["text"],
            window["squared"],
            window["images"],
            window["supervised"],
        )
        waited, memory = self._worst(self._waited / seconds, peak_memory())
        report = {
            "visual_tokens_per_s": window["visual"] / seconds,
            "text_tokens_per_s": window["text"] / seconds,
            "samples_per_s": window["samples"] / seconds,
            "step_seconds": seconds / steps,
            "data_wait": waited,
            "memory_gib": memory,
            "flops_per_s": achieved / seconds,
            "padding": _padding(window),
            **{name: float(self._total[name]) for name in ("quarantined", "filled", "overlong")},
        }
        if self.peak is not None:
            report["mfu"] = report["flops_per_s"] / (self.peak * self.world_size)
        self.start()
        return report

    def summary(self) -> dict[str, float]:
        """Counts of the whole attempt, over all ranks. Ends the window; synchronises."""
        self.report()
        names = ("samples", "quarantined", "filled", "overlong")
        return {"padding": _padding(self._total), **{name: float(self._total[name]) for name in names}}

    @property
    def used(self) -> int:
        """Samples that were trained on so far in this attempt, as of the last report."""
        return self._total["samples"]

    @property
    def quarantined(self) -> int:
        """Samples left out so far in this attempt, over all ranks, as of the last report."""
        return self._total["quarantined"]

    @property
    def declared(self) -> int:
        """Those of them whose media are missing in a source that declares so."""
        return self._total["declared"]

    @property
    def damaged(self) -> int:
        """Those of them that are neither that nor over-long."""
        return self._total["quarantined"] - self._total["declared"] - self._total["too_long"]

    @property
    def seen(self) -> int:
        """Places of the plan met so far in this attempt, filled or not, as of the last report."""
        return self._total["samples"] + self._total["quarantined"] - self._total["filled"]


def peak_memory() -> float:
    """GiB that this rank held at most: of the device since the last call, without one of the process."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def _padding(counts: Mapping[str, int]) -> float:
    """Share of padding among all tokens."""
    tokens = counts["visual"] + counts["context"] + counts["text"] + counts["padding"]
    return counts["padding"] / max(1, tokens)
