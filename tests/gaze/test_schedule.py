"""Progressive TopK."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambrian_gaze.gaze.schedule import TopKSchedule

STEPS = 1000


def _curve(schedule, total=STEPS):
    return [schedule.keep_ratio(step, total) for step in range(total)]


@given(st.integers(1, 3000), st.floats(1e-3, 1.0))
def test_dense_then_falling_then_k_alone(total, final):
    curve = _curve(TopKSchedule(final_keep_ratio=final), total)
    assert all(ratio == 1.0 for step, ratio in enumerate(curve) if step / total < 0.1)
    assert all(a >= b for a, b in zip(curve, curve[1:], strict=False)), "monotone"
    assert all(final <= ratio * (1 + 1e-9) for step, ratio in enumerate(curve) if step / total < 0.7)
    assert all(ratio == 0.0 for step, ratio in enumerate(curve) if step / total >= 0.7), "K alone decides"


def test_the_decay_is_geometric_and_ends_at_the_final_ratio():
    curve = _curve(TopKSchedule(final_keep_ratio=1 / 64))
    falls = [b / a for a, b in zip(curve[100:699], curve[101:700], strict=True)]
    assert falls == pytest.approx([falls[0]] * len(falls))
    assert curve[100] == 1.0 and curve[400] == pytest.approx(1 / 8) and curve[699] == pytest.approx(1 / 64, rel=0.02)


@given(st.integers(0, 999), st.booleans(), st.integers(0, 5))
def test_a_function_of_the_step_alone(step, random_k, seed):
    schedule = TopKSchedule(random_k=random_k, seed=seed)
    ratio = schedule.keep_ratio(step, STEPS)
    for other in (0, 999, step + 1):
        schedule.keep_ratio(other, STEPS)
    assert schedule.keep_ratio(step, STEPS) == ratio
    assert pickle.loads(pickle.dumps(schedule)).keep_ratio(step, STEPS) == ratio
    assert TopKSchedule(random_k=random_k, seed=seed).keep_ratio(step, STEPS) == ratio


def test_the_shape_scales_with_the_number_of_steps():
    schedule = TopKSchedule()
    assert [schedule.keep_ratio(10 * step, 1000) for step in range(100)] == _curve(schedule, 100)


def test_random_k_stays_between_the_schedule_and_dense():
    final = 1 / 64
    plain = _curve(TopKSchedule(final_keep_ratio=final))
    drawn = _curve(TopKSchedule(final_keep_ratio=final, random_k=True))
    assert all(max(low, final) * (1 - 1e-9) <= ratio <= 1.0 for low, ratio in zip(plain, drawn, strict=True))
    assert drawn[:100] == [1.0] * 100
    assert len(set(drawn[700:])) > 250, "a new draw at each step"
    assert drawn != _curve(TopKSchedule(random_k=True, seed=1))
    tail = drawn[700:]
    assert min(tail) < 1.1 * final and max(tail) > 0.9, "every budget is met"


@pytest.mark.parametrize(
    "fields",
    [
        {"dense_fraction": -0.1},
        {"dense_fraction": 0.6, "decay_fraction": 0.5},
        {"decay_fraction": 1.5},
        {"final_keep_ratio": 0.0},
        {"final_keep_ratio": 1.5},
    ],
)
def test_shapes_that_make_no_sense(fields):
    with pytest.raises(ValueError):
        TopKSchedule(**fields)


@pytest.mark.parametrize(("step", "total"), [(-1, 10), (0, 0)])
def test_steps_that_make_no_sense(step, total):
    with pytest.raises(ValueError):
        TopKSchedule().keep_ratio(step, total)


def test_no_dense_phase_and_no_decay():
    assert set(_curve(TopKSchedule(dense_fraction=0.0, decay_fraction=0.0))) == {0.0}
    assert set(_curve(TopKSchedule(dense_fraction=1.0, decay_fraction=0.0))) == {1.0}
