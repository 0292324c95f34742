"""A checkpoint says where its run stands in the data, and another order or split is never taken without a word."""

import numpy as np
import pytest

from cambrian_gaze.data.mixture.plan import EpochOrder
from cambrian_gaze.training.order.position import Position, Split, StepSchedule
from tests.training.order.test_order import an_order


def test_a_checkpoint_keeps_the_position(tmp_path) -> None:
    order = an_order(40, True)
    course = StepSchedule(order, Split(2), Position(), epochs=1)
    course.position(3).save(tmp_path)
    assert Position.load(tmp_path) == course.position(3)
    assert course.progress(3) == pytest.approx(6 / order.num_packs(0))
    (tmp_path / "data_position.json").write_text('{"epoch": 1')
    with pytest.raises(ValueError, match="nobody knows which samples"):
        Position.load(tmp_path)


def test_another_order_is_refused_in_mid_epoch(caplog) -> None:
    course = StepSchedule(an_order(40, False), Split(4), Position(), epochs=3)
    fewer = EpochOrder(np.delete(np.arange(40), 7), seed=3)
    with pytest.raises(ValueError, match="8 samples or packs into epoch 0.*rows: 40 then, 39 now"):
        course.position(2).check(fewer)
    course.position(10).check(fewer)
    assert "epoch 1 follows another order" in caplog.text


def test_a_new_split_is_announced(caplog) -> None:
    order = an_order(40, False)
    position = StepSchedule(order, Split(4), Position(), epochs=1).position(5)
    course = StepSchedule(order, Split(2, 2, 2), position, epochs=1)
    course.say_changes()
    assert course.max_steps == 8  # 20 samples in 5 steps, and 20 in steps of 8
    assert "was 4 and is 8: epoch 0 goes on after 20" in caplog.text and "ends at step 8" in caplog.text


def test_an_epoch_that_fills_no_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="epoch 0 has 3 packs, less than a batch of all ranks"):
        StepSchedule(an_order(3, False), Split(4, drop_last=True), Position(), epochs=1)


def test_a_finished_run_has_no_steps_left() -> None:
    course = StepSchedule(an_order(40, False), Split(4), Position(), max_steps=13, epochs=3)
    assert (course.epochs, course.max_steps) == (range(0, 2), 13)
    again = StepSchedule(an_order(40, False), Split(4), course.position(13), max_steps=13, epochs=3)
    assert not again.parts and len(again.epochs) == 0 and again.position(13).packs == 12
