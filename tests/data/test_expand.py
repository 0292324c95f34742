"""Placeholders to visual and context tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.expand import PlaceholderIds, expand_placeholders, find_placeholders

IDS = PlaceholderIds(image=90, video=91, context=92)


def test_an_image_and_a_video_of_two_frames():
    out = expand_placeholders([1, 90, 2, 91, 3], [(1, 1, 2), (2, 2, 1)], IDS, 1)
    assert out.input_ids == [1, 90, 90, 92, 2, 91, 91, 92, 91, 91, 92, 3]
    assert out.mm_token_type_ids == [0, 1, 1, 3, 0, 2, 2, 3, 2, 2, 3, 0]
    assert out.source == [0, 1, 1, 1, 2, 3, 3, 3, 3, 3, 3, 4]


grids = st.tuples(st.booleans(), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))


@given(st.lists(st.one_of(st.integers(0, 9), grids)), st.integers(0, 3))
def test_lengths_types_and_sources(items, context):
    ids = [(91 if item[0] else 90) if isinstance(item, tuple) else item for item in items]
    grids = [(item[1] if item[0] else 1, *item[2:]) for item in items if isinstance(item, tuple)]
    out = expand_placeholders(ids, grids, IDS, context)
    assert [ids[i] for i in find_placeholders(ids, IDS)] == [token for token in ids if token > 9]
    assert len(out.input_ids) == len(out.mm_token_type_ids) == len(out.source)
    assert len(out.source) == len(ids) - len(grids) + sum(t * (h * w + context) for t, h, w in grids)
    assert out.source == sorted(out.source) and set(out.source) == set(range(len(ids)))
    types = {90: 1, 91: 2, 92: 3}
    assert out.mm_token_type_ids == [types.get(token, 0) for token in out.input_ids]
    assert all(token in (ids[source], 92) for token, source in zip(out.input_ids, out.source, strict=True))


@pytest.mark.parametrize(
    ("ids", "grids", "reason"),
    [
        ([1, 90], [], "holds 1 image and video placeholders, but 0"),
        ([1], [(1, 2, 2)], "holds 0 image and video placeholders, but 1"),
        ([90], [(2, 2, 2)], "grid 2x2x2 does not fit an image"),
        ([91], [(0, 2, 2)], "grid 0x2x2 does not fit a video"),
    ],
)
def test_disagreement_is_an_error_with_counts(ids, grids, reason):
    with pytest.raises(RecordError, match=f"{reason}.*Remedy"):
        expand_placeholders(ids, grids, IDS, 2)


def test_the_tokens_are_looked_up(tokenizer):
    ids = PlaceholderIds.from_tokenizer(tokenizer)
    assert tokenizer.convert_ids_to_tokens(list(ids)) == ["<|image_pad|>", "<|video_pad|>", "<|vision_pad|>"]


def test_a_tokenizer_without_them_is_refused():
    class Other:
        unk_token_id = 0

        def convert_tokens_to_ids(self, tokens):
            return [0, 5, None]

    with pytest.raises(ValueError, match=r"lacks <\|image_pad\|>, <\|vision_pad\|>; use a Qwen"):
        PlaceholderIds.from_tokenizer(Other())
