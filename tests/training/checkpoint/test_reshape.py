"""A run goes on over another number of ranks, or another ZeRO stage, as if nothing had changed."""

import contextlib
import io
import json
import os
import signal
from collections import defaultdict
from pathlib import Path

import pytest

from cambrian_gaze.training.checkpoint.resume import VIEW
from cambrian_gaze.training.metrics.log import read_log
from tests.training._ranks import launch
from tests.training._runs import flags, run, write_data
from tests.training.checkpoint.test_resume import run_noting_rows, zero

KEYS = {"max_steps": 9, "global_batch_size": 4, "per_device_train_batch_size": 1, "max_grad_norm": 0.5}
Rows = dict[int, list[list[int]]]


def rows_of(notes: Path) -> Rows:
    """Rows that each step drew, over all ranks."""
    rows: Rows = defaultdict(list)
    for line in notes.read_text().splitlines():
        step, drawn = json.loads(line)
        rows[step].append(drawn)
    return {step: sorted(drawn) for step, drawn in rows.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float], Rows]:
    """Data, losses and rows of two ranks with ZeRO 2."""
    folder = tmp_path_factory.mktemp("undisturbed")
    data = write_data(folder / "data", list("iitiiiitiiii" * 4))
    given = flags(data, folder / "run", deepspeed=zero(2), save_strategy="no", **KEYS)
    assert launch(2, run_noting_rows, given, str(folder / "notes")) == [0, 0]
    return data, [line["loss"] for line in read_log(folder / "run")], rows_of(folder / "notes")


@pytest.mark.slow
@pytest.mark.parametrize(
    "attempts",
    [[(2, None), (1, None), (2, None)], [(2, 2), (1, 2), (2, 2)], [(2, 1), (2, 2), (2, 1)]],
    ids=["2-1-2 ranks without DeepSpeed", "2-1-2 ranks with ZeRO-2", "ZeRO 1-2-1"],
)
def test_same_losses_and_order(
    undisturbed: tuple[Path, list[float], Rows], tmp_path: Path, attempts: list[tuple[int, int | None]]
) -> None:
    data, losses, rows = undisturbed
    seen: Rows = {}
    for (ranks, stage), kill_at in zip(attempts, (5, 8, None), strict=True):
        changes = {**KEYS, "deepspeed": zero(stage)} if stage else KEYS
        given, notes = flags(data, tmp_path / "run", **changes), tmp_path / f"notes{kill_at}"
        codes = launch(ranks, run_noting_rows, given, str(notes), kill_at, group_of_one=stage is not None)
        assert (-signal.SIGKILL in codes) == (kill_at is not None), codes
        seen |= rows_of(notes)
    assert seen == rows
    log = read_log(tmp_path / "run")
    assert [line["attempt"] for line in log] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [line["loss"] for line in log] == pytest.approx(losses, abs=1e-5, rel=0)
    assert not (tmp_path / "run" / VIEW).exists()


def expect_refusal(argv: list[str], note: str) -> int:
    """0 where this rank is refused; what it says is written to `note`."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = run(argv)
    Path(f"{note}{os.environ['RANK']}").write_text(said.getvalue())
    return 0 if status == 2 else 1


@pytest.mark.slow
def test_what_cannot_be_carried_over_is_refused(pages: Path, tmp_path: Path) -> None:
    """Trainer alone would go on with a fresh optimizer."""
    assert launch(2, run, flags(pages, tmp_path / "run", deepspeed=zero(2), max_steps=3)) == [0, 0]
    given = flags(pages, tmp_path / "run", max_steps=6)
    assert launch(2, expect_refusal, given, str(tmp_path / "note")) == [0, 0]
    said = "".join((tmp_path / f"note{rank}").read_text() for rank in range(2))  # the first rank says it for both
    assert "2 ranks of DeepSpeed with ZeRO 2, and this run has 2 ranks without DeepSpeed" in said
