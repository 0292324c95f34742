"""What a checkpoint says about its run is checked when it is read; a faulty one is passed over with the reason."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cambrian_gaze.cli.checkpoint import main as checkpoint_command
from cambrian_gaze.training.checkpoint.checkpoint import MARKER, last_complete_checkpoint, mark_complete, read_marker
from cambrian_gaze.training.checkpoint.resume import checkpoint_to_resume
from cambrian_gaze.training.checkpoint.states import TRAINER_STATE
from cambrian_gaze.training.config import config
from cambrian_gaze.training.faults.bad_steps import STATE_NAME as NORMS
from cambrian_gaze.training.order.position import FILE as POSITION
from cambrian_gaze.training.run import train
from tests.training._runs import flags

HUGE = 10**30
ENTRY = {"size": 1, "sha256": "0"}
VARIANTS: list[tuple[str, Any]] = [
    *((TRAINER_STATE, raw) for raw in ("", "{", "[]", "null", "3", '"x"', "[" * 100_000, "\x00", '{"a": ' * 5000)),
    *((TRAINER_STATE, {"global_step": value}) for value in (10**9, -1, 3, "4", 4.5, None, True, HUGE, [4])),
    *((TRAINER_STATE, {"max_steps": value}) for value in (0, 3, -8, "8", None, {})),
    *((TRAINER_STATE, {"epoch": value}) for value in ("one", -1, float("nan"), float("inf"))),
    *((TRAINER_STATE, {"log_history": value}) for value in ({}, [1], "x", [["loss"]])),
    *((TRAINER_STATE, {"stateful_callbacks": value}) for value in ([], [1], {"TrainerControl": 1}, {"A": {}}, "x")),
    *((TRAINER_STATE, {"best_model_checkpoint": value}) for value in (1, [], {})),
    *((TRAINER_STATE, {key: "x"}) for key in ("train_batch_size", "save_steps", "total_flos", "best_metric")),
    *((TRAINER_STATE, {"num_train_epochs": value}) for value in ("3", -1, None)),
    *((TRAINER_STATE, {"never_heard_of": 1}), (TRAINER_STATE, {"is_world_process_zero": 0})),
    *((POSITION, raw) for raw in ("", "{", "[]", "null", "7", "[" * 100_000, "{}", '{"epoch": 0}')),
    *((POSITION, {"step": value}) for value in (3, 10**9, -4, "4", None, 4.0, True)),
    *((POSITION, {"epoch": value}) for value in (-1, 5, 10**9, "0", 0.5, None)),
    *((POSITION, {"packs": value}) for value in (-1, 13, 10**12, "8", 8.5, None, [8])),
    *((POSITION, {"global_batch": value}) for value in (0, -2, "2", 2.5)),
    *((POSITION, {"order": value}) for value in ([], "x", 1, {"rows": -3}, {"rows": "12"})),
    (POSITION, {"more": 1}),
    *((NORMS, raw) for raw in ("", "[]", "null", "{}", '{"norms": []}', "[" * 100_000)),
    *((NORMS, {"norms": value}) for value in ("x", ["a"], [-1.0], [None], [float("nan")], [1.0] * 100_000, {})),
    *((NORMS, {"steps": value}) for value in ("x", [0], [5], [-1], [2, 1], [1, 1], [1.5], None)),
]
MARKERS: list[Any] = [
    *("", "{", "[]", "null", "1", "[" * 100_000),
    *({"step": value} for value in (3, -4, "4", None, 10**9, 4.5)),
    *({"files": value} for value in ([], {"../x": ENTRY}, {"/etc/passwd": ENTRY}, {"": ENTRY})),
    *({"files": {"config.json": entry}} for entry in (None, 1, {}, {**ENTRY, "size": -1}, {**ENTRY, "size": "1"})),
    *({"world_size": value} for value in (0, -1, "1", HUGE)),
    *({"zero_stage": value} for value in (9, "2", 1.5)),
    *({"resumable": value} for value in ("no", 1)),
    *({"time": value} for value in ("now", float("nan"), None)),
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(pages: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data, and a run of 4 steps that has written the checkpoints 2 and 4 and was killed before its end."""
    folder = tmp_path_factory.mktemp("states") / "run"
    train(config.load(flags(pages, folder, max_steps=4, save_steps=2)))
    said = json.loads((folder / "run_config.json").read_text())
    (folder / "run_config.json").write_text(json.dumps({**said, "finished": None}))
    return pages, folder


def write(path: Path, change: Any) -> None:
    """A text as it is; of a dict its keys."""
    if isinstance(change, str):
        path.write_text(change, encoding="utf-8")
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}), encoding="utf-8")


def test_whole_states_have_no_fault(finished: tuple[Path, Path]) -> None:
    assert last_complete_checkpoint(finished[1], hashes=True, states=True) == (finished[1] / "checkpoint-4", [])


def test_a_faulty_one_is_passed_over(finished: tuple[Path, Path], tmp_path: Path) -> None:
    """Its marker is written anew each time, as by somebody who wants it to be believed."""
    run, bad = tmp_path / "run", tmp_path / "run" / "checkpoint-4"
    shutil.copytree(finished[1], run)
    whole = {name: (bad / name).read_text() for name in (TRAINER_STATE, POSITION, NORMS, MARKER)}
    assert len(VARIANTS) + len(MARKERS) > 100
    for name, change in [*VARIANTS, *((MARKER, change) for change in MARKERS)]:
        for other, text in whole.items():
            (bad / other).write_text(text)
        write(bad / name, change)
        if name != MARKER:
            facts = {k: v for k, v in json.loads(whole[MARKER]).items() if k not in ("step", "files", "time")}
            mark_complete(bad, 4, {n: e["sha256"] for n, e in json.loads(whole[MARKER])["files"].items()}, **facts)
        found, messages = last_complete_checkpoint(run, states=True)
        assert found == run / "checkpoint-2", (name, str(change)[:80])
        assert len(messages) == 1 and name in messages[0] and len(messages[0]) < 500, messages


@pytest.mark.parametrize("missing", [TRAINER_STATE, POSITION])
def test_what_resuming_needs_must_be_there(finished: tuple[Path, Path], tmp_path: Path, missing: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished[1], run)
    marker = read_marker(run / "checkpoint-4")
    (run / "checkpoint-4" / missing).unlink()
    del marker["files"][missing]
    (run / "checkpoint-4" / MARKER).write_text(json.dumps(marker))
    found, messages = last_complete_checkpoint(run, states=True)
    assert found == run / "checkpoint-2" and f"{missing} is not there" in messages[0]


def test_the_run_goes_on_from_the_one_before(
    finished: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = finished[0], tmp_path / "run"
    shutil.copytree(finished[1], run)
    write(run / "checkpoint-4" / POSITION, {"packs": -5})
    mark_complete(run / "checkpoint-4", 4)
    again = config.load(flags(data, run, max_steps=4, save_steps=2))
    assert checkpoint_to_resume(again) == str(run / "checkpoint-2")
    assert "checkpoint-4 is passed over: data_position.json: packs must be a whole number" in caplog.text
    named = config.load(flags(data, run, max_steps=4, save_steps=2, resume_from_checkpoint=run / "checkpoint-4"))
    with pytest.raises(ValueError, match="checkpoint-4 cannot be resumed from: data_position.json"):
        checkpoint_to_resume(named)
    write(run / "checkpoint-2" / MARKER, "[]")
    assert checkpoint_command(["ls", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "packs must be" in shown and "complete.json cannot be believed" in shown


def test_a_file_that_is_none_is_not_opened(tmp_path: Path) -> None:
    import os

    (tmp_path / "checkpoint-4").mkdir()
    os.mkfifo(tmp_path / "checkpoint-4" / MARKER)
    found, messages = last_complete_checkpoint(tmp_path, states=True)
    assert found is None and "no regular file" in messages[0]
