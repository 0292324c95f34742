"""A tiny SigLIP tower that first learns to see: recognition on the training pages.

The decoder cannot learn to read and where to look while the tower knows nothing, at least not in minutes. So the tower
is trained alone on three questions, each answered by a linear head that is thrown away: the digit of a cell from the
mean of its tokens, the digit of a cell from each of its tokens, and the place of each token on the page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cambrian_gaze.quickstart.task import ADDRESSES, COLUMNS, ROWS

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import ModuleDict
    from transformers import SiglipVisionModel

    Ask = Callable[[Tensor], tuple[dict[str, Tensor], dict[str, Tensor]]]


@dataclass(frozen=True)
class TowerSpec:
    """Size and training of the tower."""

    image_size: int = 64
    patch_size: int = 8
    hidden_size: int = 64
    intermediate_size: int = 256
    layers: int = 2
    heads: int = 4
    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    token_weight: float = 0.5
    """Weight of the loss on single tokens."""
    place_weight: float = 0.5
    """Weight of the loss on places."""
    seed: int = 0


def pretrain_tower(data: str | Path, output: str | Path, spec: TowerSpec, device: str = "cpu") -> dict[str, float]:
    """Train the tower on the pages of `data` (see `digits.py`) and save it to `output`, a `SiglipVisionModel` folder.

    Returns: held-out accuracy of the digit of a cell (`cell`), of the digit from one token (`token`) and of the place
    (`place`).
    """
    import torch

    torch.manual_seed(spec.seed)
    tower = build_tower(spec).to(device)
    cells = cell_of_token(spec.image_size // spec.patch_size).to(device)
    heads = torch.nn.ModuleDict(
        {
            "cell": torch.nn.Linear(spec.hidden_size, 10),
            "token": torch.nn.Linear(spec.hidden_size, 10),
            "place": torch.nn.Linear(spec.hidden_size, len(ADDRESSES)),
        }
    ).to(device)
    pixels, digits = load_pages(data, "train")

    def ask(chosen: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return _answer(tower, heads, cells, pixels[chosen].to(device), digits[chosen].to(device))

    weights = {"cell": 1.0, "token": spec.token_weight, "place": spec.place_weight}
    fit_tower(tower, heads, ask, len(pixels), weights, spec)
    tower.eval()
    result = _heldout_accuracy(tower, heads, cells, *load_pages(data, "heldout"), device=device)
    tower.to("cpu").save_pretrained(output)
    return result


def fit_tower(
    tower: SiglipVisionModel, heads: ModuleDict, ask: Ask, pages: int, weights: Mapping[str, float], spec: TowerSpec
) -> None:
    """Train a tower and its heads, in place.

    Args:
        ask: pages drawn, int64 [batch] below `pages`, → logits [N, M, classes] and targets [N, M] by head.
        weights: of the heads' losses.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from tqdm import trange

    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=spec.learning_rate, betas=(0.9, 0.98), weight_decay=spec.weight_decay)
    warmup = min(50, spec.steps // 4 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warmup) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / spec.steps))),
    )
    draw = torch.Generator().manual_seed(spec.seed)
    bar = trange(spec.steps, desc="tower", unit="step")
    for _ in bar:
        chosen = torch.randint(0, pages, (spec.batch_size,), generator=draw)
        logits, targets = ask(chosen)
        losses = [w * cross_entropy(logits[n].flatten(0, 1), targets[n].flatten()) for n, w in weights.items()]
        loss = sum(losses[1:], losses[0])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def build_tower(spec: TowerSpec) -> SiglipVisionModel:
    """A fresh tower; its features are `last_hidden_state` [N, (image_size/patch_size)^2, hidden_size]."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=spec.hidden_size,
            intermediate_size=spec.intermediate_size,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            image_size=spec.image_size,
            patch_size=spec.patch_size,
            vision_use_head=False,
        )
    )


def cell_of_token(side: int) -> Tensor:
    """Cell (place in raster order) of each token of a side x side grid: int64 [side^2]."""
    import torch

    place = torch.arange(side)
    row, column = place * len(ROWS) // side, place * len(COLUMNS) // side
    return (row[:, None] * len(COLUMNS) + column[None, :]).flatten()


def load_pages(data: str | Path, split: str) -> tuple[Tensor, Tensor]:
    """All pages of a split: pixels uint8 [N, side, side] and digits int64 [N, 16]."""
    import numpy as np
    import torch
    from PIL import Image

    data = Path(data)
    pages = [json.loads(line) for line in (data / "pages.jsonl").read_text(encoding="utf-8").splitlines()]
    pages = [page for page in pages if page["split"] == split]
    pixels = []
    for page in pages:
        with Image.open(data / "images" / page["image"]) as image:
            pixels.append(np.asarray(image.convert("L")))
    return torch.from_numpy(np.stack(pixels)), torch.tensor([page["digits"] for page in pages])


def _answer(tower, heads, cells: Tensor, pixels: Tensor, digits: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Logits [N, tokens or cells, classes] and targets [N, tokens or cells] of the three questions."""
    import torch

    images = (pixels.float() / 127.5 - 1.0)[:, None].expand(-1, 3, -1, -1)
    features = tower(images).last_hidden_state
    member = torch.nn.functional.one_hot(cells, len(ADDRESSES)).to(features.dtype)
    pooled = torch.einsum("nsd,sc->ncd", features, member / member.sum(0))
    logits = {"cell": heads["cell"](pooled), "token": heads["token"](features), "place": heads["place"](features)}
    targets = {"cell": digits, "token": digits[:, cells], "place": cells.expand(len(digits), -1)}
    return logits, targets


def _heldout_accuracy(tower, heads, cells: Tensor, pixels: Tensor, digits: Tensor, device: str) -> dict[str, float]:
    import torch

    right = {"cell": 0, "token": 0, "place": 0}
    total = dict(right)
    with torch.no_grad():
        for places in torch.arange(len(pixels)).split(256):
            logits, targets = _answer(tower, heads, cells, pixels[places].to(device), digits[places].to(device))
            for name in right:
                right[name] += (logits[name].argmax(-1) == targets[name]).sum().item()
                total[name] += targets[name].numel()
    return {name: right[name] / total[name] for name in right}
