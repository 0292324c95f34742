"""From a record to judged tokens: was the phrase's place looked at, how much of it, and was it needed?"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cambrian_gaze.data.media.image_files import load_image
from cambrian_gaze.evaluation.routing.captions import LEAST, Said, log_probs, phrase_of_tokens, say
from cambrian_gaze.evaluation.routing.geometry import covered
from cambrian_gaze.evaluation.routing.masks import read_mask
from cambrian_gaze.evaluation.routing.records import RoutingRecord

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class RoutingOptions:
    """How captions are said."""

    gaze: dict[str, Any] = field(default_factory=dict)
    """Run-time options of the gaze; empty: as the checkpoint has it."""
    max_new_tokens: int = 512
    """Longest caption where the model makes its own."""
    counterfactual: bool = True
    """Also hide the phrases' regions, and as many others."""
    batch_size: int = 16
    """Rows of a counterfactual batch: one with nothing hidden, two for each set of regions."""
    seed: int = 0
    """Of which other regions are hidden."""


@dataclass
class Judged:
    """The tokens of one caption that belong to a phrase with a mask. T of them, L layers that route, H heads."""

    id: str
    caption: str
    spans: list[list[tuple[int, int]]]
    """Of each phrase in the caption."""
    places: list[int]
    """Place of each token in the caption."""
    texts: list[str]
    phrases: list[int]
    kinds: list[str]
    layers: list[int]
    hits: np.ndarray
    """bool [T, L, H]: one of the regions looked at overlaps the phrase's mask."""
    share: np.ndarray
    """float [T, L, H]: share of the mask inside the regions looked at."""
    overlapping: np.ndarray
    """int [T]: regions that overlap the phrase's mask."""
    regions: int
    """Regions of the picture."""
    kept: np.ndarray
    """int [T, L]: regions looked at."""
    log_probs: np.ndarray
    """float [T]: with nothing hidden; nan where nothing was to be hidden."""
    drop: np.ndarray
    """float [T]: how much the log-probability falls when the phrase's regions are hidden; nan where not measured."""
    drop_others: np.ndarray
    """float [T]: the same for as many other regions."""
    absent: int
    """Phrases that stand nowhere in the caption."""
    not_compared: int
    """Phrases with tokens whose regions were not hidden: none, all, or more of them than others."""


def judge(model: Any, processor: Any, record: RoutingRecord, folder: str | Path, options: RoutingOptions) -> Judged:
    """Say the record's caption and judge its tokens.

    Raises: ValueError or MediaError that names the record, and ValueError where no layer routes.
    """
    try:
        image = load_image(record.image, folder)
        masks = [read_mask(phrase.masks, image.size, folder) for phrase in record.phrases]
    except ValueError as error:
        raise ValueError(f"record {record.id!r}: {error}") from error
    config = model.config.gaze_config.override(**options.gaze)
    layers = [n for n in range(model.config.text_config.num_hidden_layers) if config.routes(n)]
    if not layers:
        raise ValueError('no layer routes: every region is looked at; give a budget, such as --gaze "top_k=2"')
    tokens = None
    if record.caption is not None:
        tokens = processor.tokenizer.encode(record.caption, add_special_tokens=False)
    said = say(
        model, processor, image, record.prompt, gaze=options.gaze, tokens=tokens, max_new_tokens=options.max_new_tokens
    )
    if record.caption is not None and said.text != record.caption:
        raise ValueError(f"record {record.id!r}: its caption becomes {said.text!r} in the model's tokens")
    aspect = getattr(processor, "image_aspect_ratio", "pad")
    areas = [covered(mask, said.boxes, processor.grid_hw, aspect) for mask in masks]
    judged = _judged(record, said, areas, layers)
    if options.counterfactual and judged.places:

        def hide(hidden: torch.Tensor) -> np.ndarray:
            found = log_probs(
                model, processor, image, record.prompt, gaze=options.gaze, tokens=said.tokens, hidden=hidden
            )
            return found[:, judged.places].numpy()

        _hide(judged, areas, options, hide)
    return judged


def _judged(record: RoutingRecord, said: Said, areas: Sequence[np.ndarray], layers: Sequence[int]) -> Judged:
    import numpy as np

    spans = [phrase.places(said.text) for phrase in record.phrases]
    visible = [area.sum() > LEAST for area in areas]
    owners = phrase_of_tokens(said.pieces, [s if seen else [] for s, seen in zip(spans, visible, strict=True)])
    mine = [place for place, owner in enumerate(owners) if owner >= 0]
    chosen = said.regions[mine][:, list(layers)].numpy()  # [T, L, H, K]
    per_token = np.array([areas[owners[place]] for place in mine]).reshape(len(mine), len(said.boxes))
    spare = np.pad(per_token, ((0, 0), (0, 1)))  # the last column is what -1 looks at: nothing
    inside = np.take_along_axis(spare[:, None, None], chosen, axis=3)
    unknown = np.full(len(mine), np.nan)
    return Judged(
        id=record.id,
        caption=said.text,
        spans=spans,
        places=mine,
        texts=[said.text[slice(*said.pieces[place])] for place in mine],
        phrases=[owners[place] for place in mine],
        kinds=[record.phrases[owners[place]].kind for place in mine],
        layers=list(layers),
        hits=(inside > LEAST).any(-1),
        share=inside.sum(-1) / np.maximum(per_token.sum(1), LEAST)[:, None, None],
        overlapping=(per_token > LEAST).sum(1),
        regions=len(said.boxes),
        kept=(chosen >= 0).sum(-1).max(-1),
        log_probs=unknown.copy(),
        drop=unknown.copy(),
        drop_others=unknown.copy(),
        absent=sum(not one for one in spans),
        not_compared=0,
    )


def _hide(
    judged: Judged, areas: Sequence[np.ndarray], options: RoutingOptions, hide: Callable[[torch.Tensor], np.ndarray]
) -> None:
    """Fill in `log_probs`, `drop` and `drop_others`. Phrases in the same regions are hidden together.

    Args:
        hide: hidden regions, bool [N, R] → log-probabilities of the judged tokens, float [N, T].
    """
    import numpy as np

    sets: dict[tuple[int, ...], list[int]] = {}
    for phrase in sorted(set(judged.phrases)):
        own = tuple(int(region) for region in (areas[phrase] > LEAST).nonzero()[0])
        if 2 * len(own) <= judged.regions:
            sets.setdefault(own, []).append(phrase)
        else:
            judged.not_compared += 1
    size = max(1, (options.batch_size - 1) // 2)
    todo = list(sets.items())
    for start in range(0, len(todo), size):
        batch = todo[start : start + size]
        hidden = torch.zeros(1 + 2 * len(batch), judged.regions, dtype=torch.bool)
        for row, (own, _) in enumerate(batch):
            chance = random.Random(f"{options.seed} {judged.id} {own}")
            others = chance.sample(sorted(set(range(judged.regions)) - set(own)), len(own))
            hidden[1 + 2 * row, list(own)], hidden[2 + 2 * row, others] = True, True
        found = hide(hidden)
        for row, (_, phrases) in enumerate(batch):
            those = np.isin(judged.phrases, phrases)
            judged.log_probs[those] = found[0, those]
            judged.drop[those] = (found[0] - found[1 + 2 * row])[those]
            judged.drop_others[those] = (found[0] - found[2 + 2 * row])[those]
