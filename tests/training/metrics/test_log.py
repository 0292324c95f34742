"""The log file over interrupted attempts."""

from pathlib import Path

import pytest

from cambrian_gaze.training.callbacks import summary_line
from cambrian_gaze.training.metrics.log import LOG_NAME, TrainLog, read_log


def write(path: Path, from_step: int, steps: range, value: float) -> None:
    log = TrainLog(path)
    log.start(from_step)
    for step in steps:
        log.write("log", {"step": step, "loss": value + step})
    log.close()


def test_a_later_attempt_supersedes_what_lies_beyond_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / LOG_NAME
    write(path, 0, range(1, 6), 0.1)
    with path.open("a") as file:
        file.write('{"event": "log", "att')
    write(path, 3, range(4, 8), 0.2)
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    assert [line["attempt"] for line in lines] == [1, 1, 1, 2, 2, 2, 2]
    assert lines[3]["loss"] == 4.2
    assert len(path.read_text().splitlines()) == 5 + 1 + 1 + 4 + 1


def test_events_are_kept_apart(tmp_path: Path) -> None:
    log = TrainLog(tmp_path / LOG_NAME)
    with pytest.raises(ValueError, match="start"):
        log.write("log", {"step": 1})
    log.start(0)
    log.write("eval", {"step": 1, "eval_loss": 2.0})
    log.close()
    assert read_log(tmp_path) == []
    assert read_log(tmp_path, "eval")[0]["eval_loss"] == 2.0
    assert read_log(tmp_path / "elsewhere") == []


def test_the_line_on_the_console() -> None:
    logs = {"loss": 2.5, "grad_norm": 1.0, "learning_rate": 1e-3, "k": 2.0, "attended_kv_share": 0.125}
    logs |= {"visual_tokens_per_s": 1234.0, "text_tokens_per_s": 10.0, "quarantined": 3.0, "mfu": 0.4}
    line = summary_line(50, logs)
    for part in ("step 50", "loss 2.5", "K 2.0", "KV 0.125", "1,234 + 10", "MFU 40.0%", "quarantined 3"):
        assert part in line
    assert summary_line(9, {"train_loss": 0.5, "note": "x"}) == "train_loss 0.5"
