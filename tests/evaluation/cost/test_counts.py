"""Counted KV entries against the cost model."""

from types import SimpleNamespace

import pytest
import torch

from cambrian_gaze.evaluation.cost.counts import count_attended
from cambrian_gaze.gaze.config import GazeConfig

PAPER = GazeConfig.from_dict({"image": {"region_size": [1, 6, 6], "top_k": 2}})


def trace(visual, context, layers=2):
    shape = (1, 3, layers, 4)
    return SimpleNamespace(attended_visual=torch.full(shape, visual), attended_context=torch.full(shape, context))


def count(config, visual, context, grid=(1, 24, 24), made=None):
    return count_attended(made or trace(visual, context), 0, 3, [grid], [1], config)


def test_the_papers_number():
    assert count(PAPER, 72, 4) == {"visual": 72.0, "context": 4.0, "of": 576}


@pytest.mark.parametrize(("visual", "context", "what"), [(71, 4, "visual"), (108, 4, "visual"), (72, 3, "context")])
def test_a_difference_fails_with_the_counts(visual, context, what):
    with pytest.raises(RuntimeError, match=f"counted {visual if what == 'visual' else context} .*{what}"):
        count(PAPER, visual, context)


def test_hidden_context_tokens():
    assert count(PAPER.override(context_visible=False), 72, 0)["context"] == 0


def test_dense_layers_count_every_token():
    mixed = trace(72, 4)
    mixed.attended_visual[:, :, 1] = 576
    config = GazeConfig.from_dict({**PAPER.to_dict(), "dense_layers": [1]})
    assert count(config, 0, 0, made=mixed)["visual"] == (72 + 576) / 2
    with pytest.raises(RuntimeError, match="layer 1"):
        count(config, 72, 4)


def test_ragged_regions_have_a_range():
    ragged = (1, 27, 27)
    for visual in (72, 54, 9):
        assert count(PAPER, visual, 4, ragged)["visual"] == visual
    with pytest.raises(RuntimeError, match="2 to 72"):
        count(PAPER, 73, 4, ragged)
