"""A tower that first learns to see the glyphs of GazeBench, as the quickstart's learns digits."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from cambrian_gaze.gazebench.glyphs import Glyph
from cambrian_gaze.gazebench.questions import ask
from cambrian_gaze.gazebench.scenes import pictures, regions_of
from cambrian_gaze.gazebench.spec import LETTERS, MOST_ROWS, VIDEO_FAMILIES, GazeBenchSpec
from cambrian_gaze.quickstart.pretrain_tower import TowerSpec, build_tower, fit_tower

PAGES, HELD_OUT = 3000, 200
"""Pages that the tower learns on, and others that it is judged by; none is a page of a question."""


def pretrain_glyphs(bench: GazeBenchSpec, spec: TowerSpec, output: Path, device: str) -> dict[str, float]:
    """Train a tower to name the glyph at each of its tokens and the region where the token is; save it to `output`.

    Returns: held-out accuracy of both.
    """
    import torch

    names = glyph_classes(bench)
    pixels, labels, places = _pages(bench, spec, names)
    torch.manual_seed(spec.seed)
    tower = build_tower(spec).to(device)
    classes = {"token": len(names), "place": int(places.max()) + 1}
    heads = torch.nn.ModuleDict({name: torch.nn.Linear(spec.hidden_size, n) for name, n in classes.items()}).to(device)

    def answer(chosen: Any) -> Any:
        images = (pixels[chosen].to(device).float() / 127.5 - 1.0)[:, None].expand(-1, 3, -1, -1)
        features = tower(images).last_hidden_state
        targets = {"token": labels[chosen].to(device), "place": places.to(device).expand(len(chosen), -1)}
        return {name: head(features) for name, head in heads.items()}, targets

    fit_tower(tower, heads, answer, len(pixels) - HELD_OUT, {"token": 1.0, "place": spec.place_weight}, spec)
    tower.eval()
    with torch.no_grad():
        logits, targets = answer(torch.arange(len(pixels) - HELD_OUT, len(pixels)))
        right = {name: float((logits[name].argmax(-1) == targets[name]).float().mean()) for name in logits}
    tower.to("cpu").save_pretrained(output)
    return right


def glyph_classes(bench: GazeBenchSpec) -> tuple[str, ...]:
    """Nothing, digits, and as many letters as the rows of any page have, or more where several frames go on."""
    rows = bench.grid[0] * (bench.frames if set(bench.families) & set(VIDEO_FAMILIES) else 1)
    return ("", *"0123456789", *LETTERS[: max(MOST_ROWS, rows)])


def _pages(bench: GazeBenchSpec, spec: TowerSpec, names: tuple[str, ...]) -> tuple[Any, Any, Any]:
    """Pixels uint8 [N, side, side], glyph classes int64 [N, tokens], region of each token int64 [tokens]."""
    import numpy as np
    import torch

    side = spec.image_size // spec.patch_size
    pixels, labels = [], []
    for number in range(PAGES):
        rng = random.Random(f"{bench.seed} tower {number}")
        scene, _ = ask(bench.families[number % len(bench.families)], bench, rng)
        frame = rng.randrange(len(scene.frames))
        page = pictures(bench, scene, rng)[frame].resize((spec.image_size, spec.image_size))
        pixels.append(np.asarray(page))
        labels.append(_labels(scene.frames[frame], bench.size, side, names))
    width, height = bench.size
    step = (width // side, height // side)
    corners = [(column * step[0], row * step[1]) for row in range(side) for column in range(side)]
    places = [regions_of(bench, 0, (x, y, x + 1, y + 1))[0] for x, y in corners]
    return torch.from_numpy(np.stack(pixels)), torch.tensor(labels), torch.tensor(places)


def _labels(glyphs: tuple[Glyph, ...], size: tuple[int, int], side: int, names: tuple[str, ...]) -> list[int]:
    """Class of the glyph whose middle is in each token, in raster order."""
    found = [0] * side**2
    for text, (left, top, right, bottom) in glyphs:
        row, column = (top + bottom) * side // (2 * size[1]), (left + right) * side // (2 * size[0])
        found[row * side + column] = names.index(text)
    return found
