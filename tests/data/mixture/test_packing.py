"""Best fit over windows: nothing lost, nothing too full, little padding, the same every time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambrian_gaze.data.mixture.packing import best_fit, one_by_one, pack


@given(st.lists(st.integers(1, 50), max_size=80), st.integers(1, 20), st.one_of(st.none(), st.integers(0, 9)))
def test_every_sample_is_in_one_pack_and_no_pack_overflows(lengths, window, seed):
    counts = np.array(lengths, dtype=np.int32)
    rows = np.random.default_rng(0).permutation(len(lengths)) + 1000
    packs = pack(rows, counts, 50, window=window, seed=seed)
    assert sorted(packs.rows.tolist()) == sorted(rows.tolist())
    of = dict(zip(rows.tolist(), lengths, strict=True))
    sums = [sum(of[row] for row in packs[k].tolist()) for k in range(len(packs))]
    assert all(0 < total <= 50 for total in sums)
    # Two packs of one window that could be one would be a waste.
    for start in range(0, len(rows), window):
        members = set(rows[start : start + window].tolist())
        own = [total for k, total in enumerate(sums) if packs[k][0] in members]
        assert sum(sorted(own)[:2]) > 50 or len(own) < 2
    again = pack(rows, counts, 50, window=window, seed=seed)
    assert again.rows.tolist() == packs.rows.tolist() and again.starts.tolist() == packs.starts.tolist()


def test_best_fit_by_hand():
    # 60 opens pack 1, 50 pack 2; 40 fits 60 exactly, 30 fits 50, 20 fits 50 + 30.
    assert best_fit(np.array([30, 60, 20, 40, 50]), 100).tolist() == [0, 1, 0, 1, 0]


def test_without_a_seed_packs_stay_in_the_order_of_their_first_samples():
    packs = pack(np.arange(6), np.array([9, 5, 9, 5, 1, 1]), 10)
    assert [packs[k].tolist() for k in range(len(packs))] == [[0, 5], [1, 3], [2, 4]]
    orders = {tuple(pack(np.arange(6), np.array([9, 5, 9, 5, 1, 1]), 10, seed=seed).rows) for seed in range(9)}
    assert len(orders) > 3


def test_a_sample_longer_than_a_pack_is_an_error():
    with pytest.raises(ValueError, match="sample 7 has 51 tokens and a pack holds 50"):
        pack(np.array([3, 7]), np.array([2, 51]), 50)
    assert [row.tolist() for row in (one_by_one(np.array([4, 2]))[0], one_by_one(np.array([4, 2]))[1])] == [[4], [2]]


def test_padding_of_a_mixed_set_is_below_three_percent():
    """Images of 580 visual and context tokens, text, and videos of up to 64 frames of 148 tokens."""
    random = np.random.default_rng(0)
    text = np.minimum(8 + random.gamma(1.2, 250, 20_000), 4000)
    images = 580 + 40 + random.gamma(1.5, 120, 30_000)
    videos = 148 * random.integers(4, 65, 10_000) + 40 + random.gamma(1.2, 60, 10_000)
    lengths = random.permutation(np.concatenate([text, images, videos]).astype(np.int32))
    packs = pack(np.arange(len(lengths)), lengths, 11_264, seed=0)
    padding = 1 - lengths.sum() / (len(packs) * 11_264)
    one_each = 1 - lengths.mean() / lengths.max()
    print(f"padding {padding:.3%} of {len(packs)} packs; one sample a row: {one_each:.0%}")
    assert padding < 0.03
