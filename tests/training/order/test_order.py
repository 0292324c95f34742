"""The order of the data is a function of seed, epoch, position, split and rank."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cambrian_gaze.data.mixture.plan import EpochOrder
from cambrian_gaze.training.order.order import OrderedBatches, deal_evenly
from cambrian_gaze.training.order.position import Position, Split, StepSchedule

CAPACITY = 100


def an_order(n: int, packed: bool, **options) -> EpochOrder:
    if packed:
        options |= {
            "lengths": np.random.default_rng(n).integers(1, CAPACITY + 1, n),
            "capacity": CAPACITY,
            "window": 16,
        }
    return EpochOrder(n, seed=3, **options)


def batches(rank: int = 0, world: int = 1, epoch: int = 0, n: int = 23, size: int = 4, **options) -> list[list[int]]:
    """Rows of each batch of an unpacked epoch."""
    drop_last = options.pop("drop_last", False)
    order = OrderedBatches(an_order(n, False, **options), Split(size, 1, world, drop_last), rank=rank)
    order.begin(epoch)
    return [[draw.rows[0] for draw in batch] for batch in order]


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 5), st.integers(0, 3), st.booleans())
def test_each_sample_comes_once_and_ranks_keep_step(n: int, size: int, world: int, epoch: int, shuffle: bool) -> None:
    ranks = [batches(r, world, epoch, n, size, shuffle=shuffle) for r in range(world)]
    assert sorted(i for rank in ranks for batch in rank for i in batch) == list(range(n))
    steps = {len(rank) for rank in ranks}
    assert steps == {Split(size, 1, world).micro_steps(n)}
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
        EpochOrder(0)
    with pytest.raises(ValueError, match="dataloader_drop_last"):
        OrderedBatches(EpochOrder(7), Split(4, 1, 2, drop_last=True))


splits = st.builds(Split, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 120),
    packed=st.booleans(),
    attempts=st.lists(st.tuples(splits, st.integers(0, 12)), min_size=1, max_size=4),
    last=splits,
    epochs=st.sampled_from([1, 2, 1.5]),
)
def test_interrupted_epochs_lose_nothing_and_repeat_nothing(n, packed, attempts, last, epochs) -> None:
    """Each attempt has its own batch size, accumulation and number of ranks, and is killed after some steps; its
    position goes through a checkpoint's JSON."""
    order, position, seen = an_order(n, packed), Position(), {0: [], 1: []}
    for split, killed_after in [*attempts, (last, None)]:
        course = StepSchedule(order, split, position, epochs=epochs)
        ranks = [OrderedBatches(order, split, rank=rank) for rank in range(split.world_size)]
        step, end = position.step, course.max_steps
        if killed_after is not None:
            end = min(end, step + killed_after)
        for epoch in course.epochs:
            part = course.parts[epoch]
            for loader in ranks:
                loader.begin(epoch, part.start, part.first_step + 1, part.end)
            streams = [iter(loader) for loader in ranks]
            for number in range(part.steps):
                if step == end:
                    break
                micro = min(split.accumulation, part.micro_steps - number * split.accumulation)
                draws = [draw for _ in range(micro) for stream in streams for draw in next(stream)]
                seen[epoch] += [row for draw in draws for row in draw.rows]
                step += 1
                assert {draw.step for draw in draws} == {step}
        position = Position(**vars(course.position(step)))
        position.check(order)
    assert sorted(seen[0]) == list(range(n))
    assert len(set(seen[1])) == len(seen[1])
    if epochs == 2:
        assert sorted(seen[1]) == list(range(n))
    elif not packed:
        assert len(seen[1]) == {1: 0, 1.5: -(-n // 2)}[epochs]
    assert position.step == course.max_steps


@settings(max_examples=60, deadline=None)
@given(st.integers(12, 90), st.booleans(), splits, splits, st.sampled_from([0.3, 0.5, 0.9]), st.booleans())
def test_a_run_that_ended_within_an_epoch_goes_on_there(n, packed, first, last, epochs, drop_last) -> None:
    """`num_train_epochs` is raised after the run has ended."""
    order, position, seen = an_order(n, packed), Position(), []
    first, last = (replace(split, drop_last=drop_last) for split in (first, last))
    assume(math.ceil(order.num_packs(0) * epochs) >= first.micro_batch)
    for split, until in ((first, epochs), (last, 1)):
        course = StepSchedule(order, split, position, epochs=until)
        for epoch, part in course.parts.items():
            assert epoch == 0
            for rank in range(split.world_size):
                loader = OrderedBatches(order, split, rank=rank)
                loader.begin(epoch, part.start, part.first_step + 1, part.end)
                assert len(loader) == part.micro_steps
                seen += [row for batch in loader for draw in batch for row in draw.rows]
        position = course.position(course.max_steps)
    assert len(set(seen)) == len(seen)
    if not drop_last:
        assert sorted(seen) == list(range(n)) and course.progress(course.max_steps) == 1.0
    elif not packed:
        assert n - len(seen) < last.micro_batch or not course.parts


def test_packs_are_dealt_out_by_cost() -> None:
    assert deal_evenly("abcd", [9.0, 4.0, 3.0, 2.0], [2, 2]) == [["a", "d"], ["b", "c"]]
    order = EpochOrder(400, seed=1, lengths=np.random.default_rng(0).integers(1, 101, 400), capacity=100)
    split = Split(4, 2, 4)
    ranks = [list(OrderedBatches(order, split, rank=rank)) for rank in range(4)]

    def cost(batch) -> float:
        return sum(float((order.lengths[list(draw.rows)].astype(float) ** 2).sum()) for draw in batch)

    spread = [max(costs) / min(costs) for costs in zip(*[map(cost, rank) for rank in ranks], strict=True)][:-1]
    plain = [range(start, start + 16) for start in range(0, order.num_packs(0) - 15, 16)]
    squares = [float((order.lengths[order.plan(0)[k]].astype(float) ** 2).sum()) for k in range(order.num_packs(0))]
    unbalanced = [[sum(squares[k] for k in chunk[r * 4 : r * 4 + 4]) for r in range(4)] for chunk in plain]
    assert np.mean(spread) < 1.1 < np.mean([max(costs) / min(costs) for costs in unbalanced])


def test_reserves_follow_in_the_plan_and_fit() -> None:
    order = an_order(60, True)
    plan = order.plan(0)
    for number in range(len(plan)):
        draw = order.draw(0, number)
        taken = order.lengths[list(draw.rows)]
        end = plan.starts[number + 1]
        after = np.roll(plan.rows, -end).tolist()
        places = [after.index(row) for row in draw.reserves]
        assert places == sorted(places) and not set(draw.reserves) & set(draw.rows)
        assert all(order.lengths[row] <= CAPACITY - taken.sum() + taken.max() for row in draw.reserves)
    last = EpochOrder(5, shuffle=False).draw(0, 4)
    assert (last.rows, last.reserves) == ((4,), (0, 1, 2, 3))
