"""Varlen segments: every pair of a query and a key that it may see, once, and no other work."""

import pytest
import torch

from cambrian_gaze.attention.varlen.segments import RegionKeys, causal_pieces, region_piece
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.visibility import regions_offered, routable, structure
from tests._layouts import build, draw_case

CAUSAL = dict(visual_queries="causal")


def seen_through(pieces, q_tokens, k_tokens, heads, groups):
    """How often each query head sees each key through the pieces: int64 [T, H, S]."""
    count = torch.zeros(q_tokens, heads, k_tokens, dtype=torch.int64)
    for piece in pieces:
        first, end = piece.segments.seen(len(piece.q_rows))
        assert piece.segments.cu_q.diff().min() > 0 and piece.segments.cu_k.diff().min() > 0, "no empty segment"
        assert piece.segments.max_q >= piece.segments.cu_q.diff().max()
        assert piece.segments.max_k >= piece.segments.cu_k.diff().max()
        assert len(piece.k_rows.unique()) == len(piece.k_rows), "gradients of keys need no atomics"
        filler = len(piece.targets) * piece.fold
        for row, slot, start, stop in zip(piece.q_rows, piece.slot, first, end, strict=True):
            if slot == filler:
                continue
            keys = piece.k_rows[start:stop]
            if piece.by_head:
                token, head = row // heads, row % heads
                assert (keys % groups == head // (heads // groups)).all()
                count[token, head, keys // groups] += 1
            else:
                count[row, :, keys] += 1
    return count


@pytest.mark.parametrize("seed", range(12))
def test_segments_hold_what_visibility_says(seed):
    """Each pair of a query and a key that it may see occurs in exactly one piece, and no other pair does."""
    case = draw_case(seed, **CAUSAL)
    layout, config, groups, heads = case.batch.layout(), case.config, case.kv_heads, case.heads
    batch, length = layout.shape
    offered = regions_offered(layout, config)
    generator = torch.Generator().manual_seed(seed)
    chosen = offered[:, None] & (torch.rand(batch, heads, *offered.shape[1:], generator=generator) < 0.4)
    number = torch.arange(layout.num_regions)
    table = number.where(chosen, -1).transpose(1, 2).flatten(0, 1)
    rows = offered.any(-1).flatten().nonzero().flatten()
    pieces = causal_pieces(layout, layout, config, routes=True)
    more = region_piece(table[rows], rows, rows // length, RegionKeys.of(layout), groups)
    pieces += [] if more is None else [more]
    count = seen_through(pieces, batch * length, batch * length, heads, groups)
    at_key = chosen.gather(-1, layout.region.clamp(min=0)[:, None, None].expand(-1, heads, length, -1))
    allowed = structure(layout, layout, config)[:, None] & (at_key | ~routable(layout, layout, config)[:, None])
    allowed &= (layout.role != 0)[:, None, :, None]
    for b in range(batch):
        own = slice(b * length, (b + 1) * length)
        assert torch.equal(count[own, :, own], allowed[b].transpose(0, 1).long())
        count[own, :, own] = 0
    assert not count.any(), "nothing from another row"


def test_the_work_is_what_is_needed():
    """A whole image costs visual queries no text after it, and routed text queries no unselected region."""
    config = GazeConfig(image=RegionBudget((1, 2, 2), top_k=1), num_context_tokens=2)
    layout = build([[[("text", (3,)), ("image", (1, 4, 4)), ("text", (50,))]]], config).layout()
    whole, text, context_tokens = causal_pieces(layout, layout, config, routes=True)
    assert (len(whole.q_rows), len(whole.k_rows)) == (16, 19)
    assert (len(text.q_rows), len(text.k_rows)) == (3 + 2 + 50, 3 + 2 + 50)
    assert (len(context_tokens.q_rows), len(context_tokens.k_rows)) == (2, 18)
    chosen = torch.zeros(50, 4, 1, dtype=torch.int64)
    chosen[:, 2:] = 3
    rows = 21 + torch.arange(50)
    piece = region_piece(chosen, rows, torch.zeros_like(rows), RegionKeys.of(layout), groups=2)
    assert piece.segments.cu_q.tolist() == [0, 100, 200], "two query heads share each segment; keys are not repeated"
    assert piece.segments.cu_k.tolist() == [0, 4, 8]
    assert region_piece(torch.full_like(chosen, -1), rows, 0 * rows, RegionKeys.of(layout), groups=2) is None
