"""`derive_layout` against the layout written down while the batch was drawn."""

import dataclasses
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.derive import derive_layout
from cambrian_gaze.gaze.layout import REGION_FIELDS, TOKEN_FIELDS
from tests._layouts import Batch, build, draw_sample, free_cuts, items_between

GRIDS = [
    ("image", (1, 4, 4)),
    ("image", (1, 5, 7)),
    ("image", (1, 3, 1)),
    ("video", (1, 3, 3)),
    ("video", (3, 2, 3)),
    ("video", (4, 3, 2)),
]
SIZES = [(1, 2, 2), (1, 3, 3), (2, 2, 2), (1, 6, 6), (3, 1, 2)]


def draw_batch(seed: int, *, pack: bool | None = None, left: bool | None = None) -> Batch:
    rng = random.Random(seed)
    config = GazeConfig(
        image=RegionBudget(rng.choice(SIZES)),
        video=rng.choice([None, RegionBudget(rng.choice(SIZES))]),
        num_context_tokens=rng.choice([0, 1, 4]),
    )
    pack = rng.random() < 0.5 if pack is None else pack
    rows = [
        [draw_sample(rng, GRIDS) for _ in range(rng.randint(1, 3) if pack else 1)] for _ in range(rng.randint(1, 3))
    ]
    left = rng.random() < 0.5 if left is None else left
    return build(rows, config, left=left, pack=pack, min_length=rng.choice([0, 0, 90]))


@given(st.integers(0, 2**32))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_equals_the_layout_written_by_hand(seed):
    batch = draw_batch(seed)
    layout = batch.layout()
    for name, expected in batch.expected.items():
        assert torch.equal(getattr(layout, name).long(), expected), name
    assert layout.routed.all()
    for name in (*TOKEN_FIELDS, *REGION_FIELDS):
        want = {"role": torch.int8, "routed": torch.bool}.get(name, torch.int64)
        assert getattr(layout, name).dtype == want, name
    for b in range(layout.shape[0]):
        units = layout.unit[b].max().item() + 1
        assert layout.num_units[b] == units
        real = batch.attention_mask[b].nonzero().flatten()
        assert layout.next_position[b] == layout.position_ids[b, real[-1]] + 1


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_chunks_continue_where_the_past_ends(seed):
    """Left-padded rows in chunks of whole units and single text tokens: the same layout as at once."""
    batch = draw_batch(seed, pack=False, left=True)
    whole = batch.layout()
    rng = random.Random(seed)
    cuts = [c for c in free_cuts(whole) if rng.random() < 0.5]
    bounds = [0, *cuts, whole.shape[1]]
    order = items_between(batch, bounds)
    past, pieces = None, []
    for (start, stop), items in zip(zip(bounds, bounds[1:], strict=False), order, strict=True):
        piece = derive_layout(
            batch.mm_token_type_ids[:, start:stop],
            batch.attention_mask[:, :stop],
            batch.grid_thw[items],
            batch.config,
            past=past,
        )
        pieces.append(piece)
        past = piece
    for name in TOKEN_FIELDS:
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces], 1), getattr(whole, name)), name
    for name in (*REGION_FIELDS, "num_units", "next_position"):
        assert torch.equal(getattr(pieces[-1], name), getattr(whole, name)), name


def test_text_only_without_type_ids():
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    layout = derive_layout(None, mask, None, GazeConfig())
    assert layout.position_ids.tolist() == [[0, 0, 1, 2], [0, 1, 2, 3]]
    assert layout.num_regions == 0 and layout.role.tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]


def test_padding_inside_a_row_is_skipped():
    """A later turn of a batch is padded too: the sample goes on after it."""
    mask = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0]])
    assert derive_layout(None, mask, None, GazeConfig()).position_ids.tolist() == [[0, 1, 0, 2, 3], [0, 0, 1, 2, 0]]
    first = derive_layout(None, mask[:, :2], None, GazeConfig())
    later = derive_layout(None, mask, None, GazeConfig(), past=first)
    assert later.shape == (2, 5) and later.position_ids.tolist() == [[2, 3, 0, 4, 5], [0, 1, 2, 3, 0]]


def test_routed_is_carried():
    routed = torch.tensor([[False, True]])
    assert torch.equal(derive_layout(None, torch.ones(1, 2), None, GazeConfig(), routed=routed).routed, routed)


def test_layout_is_immutable():
    layout = derive_layout(None, torch.ones(1, 2), None, GazeConfig())
    with pytest.raises(dataclasses.FrozenInstanceError):
        layout.role = layout.role


IMAGE_ROW = [("text", (2,)), ("image", (1, 4, 4)), ("text", (1,)), ("video", (2, 2, 2)), ("text", (2,))]


def _broken(change) -> None:
    batch = build([[IMAGE_ROW]], GazeConfig(image=RegionBudget((1, 2, 2)), num_context_tokens=2))
    change(batch)
    batch.layout()


def test_the_row_that_the_errors_start_from_is_sound():
    _broken(lambda batch: None)


@pytest.mark.parametrize(
    ("grids", "counts"),
    [
        ([[1, 4, 4]], ["24", "6", "16", "2"]),
        ([[1, 4, 4], [2, 2, 2], [1, 2, 2]], ["24", "28", "6", "8"]),
        ([[1, 4, 3], [2, 2, 2]], ["24", "20"]),
        ([[1, 4, 4], [1, 2, 2]], ["24", "20", "6", "4"]),
        ([], ["24", "6", "0"]),
    ],
)
def test_counts_that_disagree_are_named(grids, counts):
    def change(batch):
        batch.grid_thw = torch.tensor(grids, dtype=torch.int64).reshape(-1, 3)

    with pytest.raises(ValueError) as error:
        _broken(change)
    for count in counts:
        assert count in str(error.value)


def test_context_count_of_another_config():
    def change(batch):
        batch.config = GazeConfig(image=RegionBudget((1, 2, 2)), num_context_tokens=4)

    with pytest.raises(ValueError, match=r"(?s)6 context.*12"):
        _broken(change)


def test_grids_without_type_ids():
    def change(batch):
        batch.mm_token_type_ids = None

    with pytest.raises(ValueError, match="2 image or video grids"):
        _broken(change)


@pytest.mark.parametrize("where", ["inside a frame", "between frames", "before the context tokens"])
def test_a_run_broken_by_text(where):
    """Placeholder counts agree, but text lies inside an item."""

    def change(batch):
        types = batch.mm_token_type_ids[0].tolist()
        start = types.index(2)
        place = {"inside a frame": start + 2, "between frames": start + 6, "before the context tokens": start + 4}[
            where
        ]
        types.insert(place, 0)
        batch.mm_token_type_ids = torch.tensor([types])
        batch.attention_mask = torch.ones_like(batch.mm_token_type_ids)

    with pytest.raises(ValueError, match="item 1"):
        _broken(change)


def test_an_item_across_two_rows():
    def change(batch):
        batch.mm_token_type_ids = torch.tensor([[1, 1], [1, 1]])
        batch.attention_mask = torch.ones(2, 2, dtype=torch.int64)
        batch.grid_thw = torch.tensor([[1, 2, 2]])
        batch.config = dataclasses.replace(batch.config, num_context_tokens=0)

    with pytest.raises(ValueError, match="item 0"):
        _broken(change)


def test_grids_in_the_wrong_order():
    def change(batch):
        batch.grid_thw = batch.grid_thw.flip(0)

    with pytest.raises(ValueError, match="item 0"):
        _broken(change)


def test_an_item_across_two_samples_of_a_pack():
    def change(batch):
        batch.sample_ids = torch.zeros_like(batch.mm_token_type_ids)
        batch.sample_ids[:, 10:] = 1

    with pytest.raises(ValueError):
        _broken(change)
