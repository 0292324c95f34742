"""The evaluation's loss: the sum over the supervised tokens of all ranks by their number, as in training.

It depends on neither batch size, order nor ranks: no row is read twice to fill a batch, and a batch's mean is never
averaged. In fp32 what is left are rounding errors of padded rows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from cambrian_gaze.data.mixture.streams import StreamDataset
from cambrian_gaze.training.launch.requests import outlive_requests
from cambrian_gaze.training.metrics.meter import model_inputs

logger = logging.getLogger(__name__)


def eval_loader(dataset: Dataset, collate: Callable[[list[Any]], dict[str, Any]], args: Any) -> DataLoader:
    """This rank's share of the rows, each read by one rank. All ranks get as many batches, the last may be empty.

    Raises: ValueError for a stream, which has no end.
    """
    if isinstance(dataset, StreamDataset):
        raise ValueError("eval_data_path: a stream has no end and cannot be evaluated; name files without `streaming`")
    batch, ranks = args.per_device_eval_batch_size, max(1, args.world_size)
    rows, mine = len(dataset), args.process_index * batch
    batches = [list(range(rows)[start + mine : start + mine + batch]) for start in range(0, rows, batch * ranks)]
    workers = args.dataloader_num_workers
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        prefetch_factor=args.dataloader_prefetch_factor if workers > 0 else None,
        multiprocessing_context=args.dataloader_multiprocessing_context if workers > 0 else None,
        generator=torch.Generator().manual_seed(args.seed),
        worker_init_fn=outlive_requests,
    )


class LossSum:
    """Adds up token losses."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)
        """Losses, supervised tokens, samples that could not be used."""

    @torch.no_grad()
    def add(self, model: nn.Module, batch: Mapping[str, Any]) -> None:
        """Count a batch that lies on the model's device."""
        unused = float(batch.get("num_quarantined", 0))
        output = model(**model_inputs(batch), skip_logits=True, return_token_losses=True)
        losses: Tensor = output.token_losses.detach().double()
        self._sums += torch.stack([losses.sum(), self._sums.new_tensor(losses.numel()), self._sums.new_tensor(unused)])

    def report(self, prefix: str = "eval") -> dict[str, float]:
        """`PREFIX_loss`, `PREFIX_supervised_tokens`, and `PREFIX_quarantined` where there were any. A collective."""
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(self._sums)
        total, tokens, unused = self._sums.tolist()
        if not tokens:
            logger.warning("the evaluation data hold no supervised token that could be read; its loss is not a number")
        report = {f"{prefix}_loss": total / tokens if tokens else math.nan, f"{prefix}_supervised_tokens": tokens}
        return report | ({f"{prefix}_quarantined": unused} if unused else {})
