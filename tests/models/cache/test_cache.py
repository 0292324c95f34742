"""What the gaze cache holds, and how its rows are moved, cropped and forgotten."""

import pytest
import torch

from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.layout import PAD
from cambrian_gaze.models.cache.cache import GazeCache
from tests._layouts import build, draw_case
from tests.models._streams import DIM, Stream, at_once, cuts_of_kind, drawn, table_so_far


def test_what_the_cache_holds():
    """Each token once, in its place: pages by region and slot, the rest in columns."""
    case, layout, layers = drawn(8)
    ((q, k, v), _) = layers
    stream = Stream(case.config)
    stream.feed_pieces([(q, k, v)], layout, cuts_of_kind("mixture", layout, 0))
    cache, pages = stream.cache, stream.cache.layers[0]
    assert cache.get_seq_length() == layout.shape[1]
    keys = torch.cat([pages.page_keys.flatten(2, 3), pages.text_context_keys], 2)
    values = torch.cat([pages.page_values.flatten(2, 3), pages.text_context_values], 2)
    held = cache.key_layout()
    assert keys.shape[2] == held.shape[1] == values.shape[2]
    for b in range(layout.shape[0]):
        tokens = {int(i): j for j, i in enumerate(held.index[b]) if held.role[b, j] != PAD}
        assert sorted(tokens) == layout.index[b][layout.role[b] != PAD].tolist()
        for i, j in tokens.items():
            assert torch.equal(keys[b, :, j], k[b, :, i]) and torch.equal(values[b, :, j], v[b, :, i])
            for name in ("role", "sample", "unit", "region", "slot", "position_ids"):
                assert getattr(held, name)[b, j] == getattr(layout, name)[b, i], name


@pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
@pytest.mark.parametrize("descriptor", ["mean", "oracle"])
def test_rows_move_with_their_layout(granularity, descriptor):
    """Beam search repeats, reorders and selects rows; the next steps are those of the rows' new owners."""
    config = GazeConfig(
        image=RegionBudget((1, 2, 2), top_k=2),
        num_context_tokens=2,
        head_granularity=granularity,
        descriptor=descriptor,
    )
    rows = [
        [("text", (1,)), ("image", (1, 4, 4)), ("text", (6,))],
        [("text", (2,)), ("image", (1, 2, 4)), ("text", (1,)), ("image", (1, 3, 2)), ("text", (6,))],
    ]
    layout = build([[row] for row in rows], config, left=True).layout()
    generator = torch.Generator().manual_seed(0)
    shape = (4, layout.shape[1], DIM)
    qkv = [torch.randn(2, n, *shape[1:], generator=generator, dtype=torch.float64) for n in (4, 2, 2)]
    prompt = layout.shape[1] - 5
    stream = Stream(config)
    stream.feed([tuple(x[:, :, :prompt] for x in qkv)], table_so_far(layout, prompt).tokens(slice(0, prompt)))

    owner = torch.arange(2)
    moves = [
        ("batch_repeat_interleave", 3, lambda x: x.repeat_interleave(3, 0)),
        ("reorder_cache", torch.tensor([1, 0, 2, 5, 3, 3]), lambda x: x[torch.tensor([1, 0, 2, 5, 3, 3])]),
        ("batch_select_indices", torch.tensor([0, 3, 4]), lambda x: x[torch.tensor([0, 3, 4])]),
        ("batch_select_indices", torch.tensor([True, False, True]), lambda x: x[torch.tensor([True, False, True])]),
    ]
    history = [tuple(x[:, :, :prompt] for x in qkv)]
    for step, (name, argument, move) in enumerate(moves):
        getattr(stream.cache, name)(argument)
        owner = move(owner)
        history = [tuple(move(x) for x in h) for h in history]
        at = prompt + step
        new = tuple(torch.randn(len(owner), n, 1, DIM, generator=generator, dtype=torch.float64) for n in (4, 2, 2))
        history.append(new)
        part = table_so_far(layout, at + 1).rows(owner)
        (got,) = stream.feed([new], part.tokens(slice(at, at + 1)))
        whole = tuple(torch.cat([h[n] for h in history], 2) for n in range(3))
        (want,) = at_once([whole], part.tokens(slice(0, at + 1)), config)
        assert torch.allclose(got, want[:, :, -1:], rtol=1e-6, atol=1e-6), name


@pytest.mark.parametrize("drop", [1, 2, 3, 4])
@pytest.mark.parametrize("negative", [False, True])
def test_cropped_tokens_are_forgotten(drop, negative):
    case = draw_case(6, video=None)
    rows = [
        [("text", (2,)), ("image", (1, 4, 4)), ("text", (5,))],
        [("text", (9,))],
        [("text", (1,)), ("image", (1, 2, 2)), ("text", (6,))],
    ]
    config = case.config
    batch = build([[row] for row in rows], config, left=True)
    layout = batch.layout()
    length = layout.shape[1]
    generator = torch.Generator().manual_seed(0)
    heads = (case.heads, case.kv_heads, case.kv_heads)
    old, new = (
        tuple(torch.randn(3, n, length, DIM, generator=generator, dtype=torch.float64) for n in heads) for _ in range(2)
    )
    stream = Stream(config)
    stream.feed_pieces([old], layout, [length - 3, length - 2])
    keep = length - drop
    stream.cache.crop(-drop if negative else keep)
    assert stream.cache.get_seq_length() == keep
    mixed = tuple(torch.cat([a[:, :, :keep], b[:, :, keep:]], 2) for a, b in zip(old, new, strict=True))
    (want,) = at_once([mixed], layout, config)
    past = stream.cache.last
    assert past.index[0, -1] == keep - 1
    assert torch.equal(past.next_position, layout.position_ids[:, keep])
    parts = []
    for at in range(keep, length):
        parts += stream.feed([tuple(x[:, :, at : at + 1] for x in mixed)], layout.tokens(slice(at, at + 1)))
    assert torch.allclose(torch.cat(parts, 2), want[:, :, keep:], rtol=1e-6, atol=1e-6)


def test_an_image_is_not_cropped_in_half():
    config = GazeConfig(image=RegionBudget((1, 2, 2), top_k=1), num_context_tokens=1)
    layout = build([[[("text", (1,)), ("image", (1, 2, 2)), ("text", (2,))]]], config).layout()
    qkv = tuple(torch.randn(1, 1, 8, DIM) for _ in range(3))
    stream = Stream(config)
    stream.feed([qkv], layout)
    with pytest.raises(ValueError, match="token 6"):
        stream.cache.crop(4)


def test_reset_forgets_everything():
    case, layout, layers = drawn(4)
    stream = Stream(case.config)
    first = stream.feed_pieces(layers, layout, [])
    stream.cache.reset()
    assert stream.cache.get_seq_length() == 0
    again = stream.feed_pieces(layers, layout, [])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_options_that_the_stored_descriptors_were_not_made_for():
    cache = GazeCache(GazeConfig(descriptor="mean"))
    cache.check(GazeConfig(descriptor="mean", image=RegionBudget(top_k=2)))
    with pytest.raises(ValueError, match="max"):
        cache.check(GazeConfig(descriptor="max"))
    with pytest.raises(ValueError, match="pre_rope"):
        cache.check(GazeConfig(descriptor_keys="pre_rope"))
