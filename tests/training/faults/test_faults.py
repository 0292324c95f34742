"""Ranks are killed at random moments, again and again; what comes out is what an undisturbed run gives, bit for bit."""

import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cambrian_gaze.models.folders.lineage import weights_digest
from cambrian_gaze.training.checkpoint.checkpoint import MARKER, checkpoint_steps, last_complete_checkpoint
from cambrian_gaze.training.metrics.log import LOG_NAME, read_log
from tests.training._ranks import launch
from tests.training._runs import flags, run, write_data
from tests.training.checkpoint.test_resume import exact, zero

KILLS = int(os.environ.get("CAMBRIAN_GAZE_KILLS", 6))
SEED = int(os.environ.get("CAMBRIAN_GAZE_KILLS_SEED", 0))


class Assassin:
    """Kills one rank of a run: while it starts, in some step, or while it writes a checkpoint."""

    def __init__(self, chance: random.Random, output: Path) -> None:
        self.output, self.rank = output, chance.randrange(2)
        self.moment = chance.choices(["start", "step", "saving"], [1, 2, 3])[0]
        self.delay = {"start": chance.uniform(0, 2), "step": chance.uniform(0, 0.2), "saving": chance.uniform(0, 0.15)}[
            self.moment
        ]
        self.lines = chance.randint(1, 4)
        self.saves_seen = set(self._unmarked())
        self.log_size = self._log_lines()
        self.due = time.monotonic() + self.delay if self.moment == "start" else None
        self.while_saving = False

    def __call__(self, processes: list[Any]) -> None:
        """Kill when the moment has come; `_ranks.launch` calls it all the time."""
        if self.due is None:
            saving = self.moment == "saving" and set(self._unmarked()) - self.saves_seen
            # The first line of an attempt says that it starts.
            stepping = self.moment == "step" and self._log_lines() > self.log_size + self.lines
            if saving or stepping:
                self.due = time.monotonic() + self.delay
        elif time.monotonic() >= self.due and processes[self.rank].is_alive():
            os.kill(processes[self.rank].pid, signal.SIGKILL)
            self.while_saving = bool(set(self._unmarked()) - self.saves_seen)
            self.due = float("inf")

    def _unmarked(self) -> list[str]:
        return [path.name for _, path in checkpoint_steps(self.output) if not (path / MARKER).exists()]

    def _log_lines(self) -> int:
        path = self.output / LOG_NAME
        return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path) -> None:
    """`CAMBRIAN_GAZE_KILLS` kills (6), drawn from `CAMBRIAN_GAZE_KILLS_SEED` (0)."""
    began, chance = time.monotonic(), random.Random(SEED)
    data = write_data(tmp_path / "data", list("iitiiiitiiii" * 4))
    changes = {"deepspeed": zero(2), "max_steps": 6 * KILLS, "save_steps": 2, "save_total_limit": 2}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert launch(2, run, flags(data, whole, **changes)) == [0, 0]
    moments, from_steps = Counter(), []
    for number in range(KILLS):
        before, _ = last_complete_checkpoint(broken)
        assassin = Assassin(chance, broken)
        codes = launch(2, run, flags(data, broken, **changes), watch=assassin)
        after, _ = last_complete_checkpoint(broken, hashes=True)
        assert -signal.SIGKILL in codes, f"kill {number} of seed {SEED}: the run ended before, {codes}"
        assert set(codes) <= {-signal.SIGKILL, 1}, codes
        assert before is None or after is not None, f"kill {number} of seed {SEED} left nothing to resume from"
        moments[assassin.moment] += 1
        moments["unmarked folder"] += assassin.while_saving
        from_steps.append(0 if after is None else int(after.name.split("-")[1]))
    assert from_steps == sorted(from_steps), "a restart never falls back behind a checkpoint"
    assert launch(2, run, flags(data, broken, **changes)) == [0, 0]
    print(
        f"seed {SEED}: {KILLS} kills {dict(moments)}, restarts from steps {from_steps}, "
        f"{time.monotonic() - began:.0f} s",
        file=sys.stderr,
    )
    assert exact(broken) == exact(whole)
    assert [line["step"] for line in read_log(broken)] == list(range(1, 6 * KILLS + 1))
    assert weights_digest(broken) == weights_digest(whole)
