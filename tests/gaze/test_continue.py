"""A video whose frames come in several calls: the layout is that of the whole video at once."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.derive import derive_layout
from cambrian_gaze.gaze.layout import REGION_FIELDS, TOKEN_FIELDS
from tests._layouts import build


def draw(seed):
    """Two rows of one length: a video of t frames, and two videos of t frames together that touch."""
    rng = random.Random(seed)
    size = (rng.randint(1, 4), rng.randint(1, 3), rng.randint(1, 3))
    t, h, w = rng.randint(2, 9), rng.randint(1, 5), rng.randint(1, 5)
    turn = rng.randint(1, t - 1)
    config = GazeConfig(
        image=RegionBudget((1, 2, 2), top_k=1),
        video=RegionBudget(size, top_k=1),
        num_context_tokens=rng.choice([0, 1, 3]),
    )
    text = rng.randint(0, 2)
    before = [("image", (1, 2, 2))] * rng.randint(0, 1) + [("text", (text,))] * (text > 0)
    rows = [
        [*before, ("video", (t, h, w)), ("text", (2,))],
        [*before, ("video", (turn, h, w)), ("video", (t - turn, h, w)), ("text", (2,))],
    ]
    batch = build([[row] for row in rows], config)
    start = batch.mm_token_type_ids.shape[1] - 2 - t * (h * w + config.num_context_tokens)
    cuts = sorted(rng.sample(range(1, t), rng.randint(1, min(4, t - 1))))
    return batch, (t, h, w), turn, start, cuts


@given(st.integers(0, 2**32))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_frames_in_pieces_are_the_whole_video(seed):
    batch, (t, h, w), turn, start, cuts = draw(seed)
    whole, config = batch.layout(), batch.config
    frame = h * w + config.num_context_tokens
    image = [[1, 2, 2]] if (batch.mm_token_type_ids[0] == 1).any() else []
    past, pieces = None, []
    for a, b in zip([0, *cuts], [*cuts, t], strict=True):
        columns = slice(start + a * frame if a else 0, start + b * frame + (2 if b == t else 0))
        grids = [[b - a, h, w]]
        grids += [[turn - a, h, w], [b - turn, h, w]] if a < turn < b else grids
        if image and not a:
            grids = [*image, grids[0], *image, *grids[1:]]
        past = derive_layout(
            batch.mm_token_type_ids[:, columns],
            batch.attention_mask[:, : columns.stop],
            torch.tensor(grids),
            config,
            past=past,
            continues=torch.tensor([a > 0, a > 0 and a != turn]),
        )
        pieces.append(past)
    for name in TOKEN_FIELDS:
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces], 1), getattr(whole, name)), name
    for name in (*REGION_FIELDS, "num_units", "next_position"):
        assert torch.equal(getattr(past, name), getattr(whole, name)), name


CONFIG = GazeConfig(image=RegionBudget((2, 2, 2), top_k=1), num_context_tokens=1)


def first_call(*segments):
    return build([[list(segments)]], CONFIG).layout()


def frames(t, h, w, kind=2):
    return torch.tensor([([kind] * (h * w) + [3]) * t]), torch.tensor([[t, h, w]])


@pytest.mark.parametrize(
    ("past", "new", "message"),
    [
        (None, frames(1, 2, 2), "text closes a video"),
        ([("video", (1, 2, 2)), ("text", (1,))], frames(1, 2, 2), "text closes a video"),
        ([("image", (1, 2, 2))], frames(1, 2, 2), "text closes a video"),
        ([("video", (1, 2, 2))], frames(1, 2, 2, kind=1), "type 1"),
        ([("video", (1, 2, 2))], (torch.tensor([[0]]), None), "type 0"),
        ([("video", (1, 4, 2))], frames(1, 2, 2), "another grid"),
        ([("video", (3, 2, 2))], frames(1, 3, 4), "another grid"),
    ],
)
def test_what_cannot_be_continued_is_refused(past, new, message):
    types, grids = new
    past = None if past is None else first_call(*past)
    with pytest.raises(ValueError, match=message):
        derive_layout(types, torch.ones_like(types), grids, CONFIG, past=past, continues=torch.tensor([True]))
