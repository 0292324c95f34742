"""The order of the data is a function of seed, epoch, step and rank."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambrian_gaze.training.order import OrderedBatches


def batches(rank: int = 0, world: int = 1, epoch: int = 0, n: int = 23, size: int = 4, **options) -> list[list[int]]:
    order = OrderedBatches(n, size, rank=rank, world_size=world, seed=3, **options)
    order.set_epoch(epoch)
    return list(order)


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 5), st.integers(0, 3), st.booleans())
def test_each_sample_comes_once_and_ranks_keep_step(n: int, size: int, world: int, epoch: int, shuffle: bool) -> None:
    ranks = [batches(r, world, epoch, n, size, shuffle=shuffle) for r in range(world)]
    assert sorted(i for rank in ranks for batch in rank for i in batch) == list(range(n))
    steps = {len(rank) for rank in ranks}
    assert steps == {len(OrderedBatches(n, size, world_size=world))}
    for at_step in zip(*ranks, strict=True):
        lengths = [len(batch) for batch in at_step]
        assert max(lengths) - min(lengths) <= 1
        assert max(lengths) <= size


def test_a_step_sees_the_same_samples_on_any_number_of_ranks() -> None:
    one = batches(size=8)
    two = [batches(rank, 2, size=4) for rank in range(2)]
    assert [a + b for a, b in zip(*two, strict=True)] == one


def test_epochs_differ_and_repeat() -> None:
    assert batches(epoch=0) != batches(epoch=1)
    assert batches(epoch=1) == batches(epoch=1)
    assert batches(shuffle=False)[0] == [0, 1, 2, 3]
    assert len(batches(drop_last=True)) == 5


def test_too_little_data_is_an_error() -> None:
    with pytest.raises(ValueError, match="no sample"):
        OrderedBatches(0, 4)
    with pytest.raises(ValueError, match="dataloader_drop_last"):
        OrderedBatches(7, 4, world_size=2, drop_last=True)
