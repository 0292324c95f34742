"""Benchmarks that a run answers while it trains. Training does not know them: whoever starts a run hands them in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cambrian_gaze.training.checkpoint.resume import first_rank_decides, zero_stage
from cambrian_gaze.training.config.config import RunConfig
from cambrian_gaze.training.config.task_arguments import FIGURES, metric_problems
from cambrian_gaze.training.metrics.samples import eval_mode


class Benchmarks(Protocol):
    """Parts of benchmarks, the same at each call, that all ranks answer together."""

    problems: list[str]
    """What keeps them from being answered, one line each."""
    names: tuple[str, ...]

    @property
    def questions(self) -> int:
        """How many questions they ask."""

    def try_out(self, model: Any, processor: Any) -> list[str]:
        """What this model cannot be asked, one line each."""

    def scores(
        self, model: Any, processor: Any, step: int, beat: Callable[[str], object], stop: Callable[[], bool]
    ) -> dict[str, float]:
        """`NAME_score`, `NAME_low` and `NAME_high` of each, see `task_arguments.FIGURES`, but of none any more from
        where `stop`, the same on all ranks, says so. A collective, as `stop` is."""


OpenBenchmarks = Callable[[RunConfig], Benchmarks]
"""Reads what `eval_tasks` of a run names."""


def open_benchmarks(run: RunConfig, opener: OpenBenchmarks | None) -> Benchmarks | None:
    """The benchmarks of a run, read and checked; None where it names none.

    Raises: ValueError with all that is wrong, a line each; on ranks beyond the first, which say nothing,
    `FirstRankFailed`.
    """
    names: tuple[str, ...] = ()
    problems: list[str] = []
    opened = None
    if run.tasks.eval_tasks and opener is None:
        problems.append(
            "eval_tasks: whoever starts this run hands it no benchmarks; start it by `cambrian-gaze train`, under a "
            "launcher by the module cambrian_gaze.cli.train"
        )
    elif run.tasks.eval_tasks:
        opened = opener(run)
        names, problems = opened.names, [f"eval_tasks: {text}" for text in opened.problems]
        if zero_stage(run.training) == 3:
            problems.append("eval_tasks: ZeRO 3 leaves no rank with all weights; use train/deepspeed/zero2.json")
    if opened is not None or not run.tasks.eval_tasks:
        problems += metric_problems(run, names)
    _raise(problems)
    return opened


def try_out(benchmarks: Benchmarks, model: Any, processor: Any) -> None:
    """Raises ValueError where the model cannot be asked some question, see `open_benchmarks`."""
    _raise([f"eval_tasks: {text}" for text in benchmarks.try_out(model, processor)])


def _raise(problems: list[str]) -> None:
    def decide() -> None:
        if problems:
            raise ValueError("\n".join(problems))

    first_rank_decides(decide)
    decide()  # What a rank alone has met.


class TaskScores:
    """The benchmarks of a run, answered in its evaluations."""

    def __init__(
        self,
        benchmarks: Benchmarks,
        every: int | None,
        beat: Callable[[str], object],
        stop: Callable[[], bool],
    ) -> None:
        """Args:
        every: steps between two measurements; None: at every evaluation.
        beat: called as the answering goes on.
        stop: whether the run is to end, the same on all ranks. A collective.
        """
        self.benchmarks, self.every, self._beat, self._stop = benchmarks, every, beat, stop

    def due(self, step: int, last: int) -> bool:
        """Whether they are answered after this step: every `every` steps and after the run's last."""
        return self.every is None or step % self.every == 0 or step == last

    def measure(self, model: Any, processor: Any, step: int, prefix: str) -> dict[str, float]:
        """`PREFIX_NAME_score` and so on. Neither modes of modules nor random numbers are changed, and the regions that
        are kept are the model's own, not the schedule's.

        A request to stop waits for one benchmark at most; those after it have no scores then.
        """
        with eval_mode(model):
            found = self.benchmarks.scores(model, processor, step, self._beat, stop=self._stop)
        return {f"{prefix}_{name}": value for name, value in found.items()}

    def leaves_open(self, metric: str | None, metrics: Mapping[str, float]) -> bool:
        """Whether `metric_for_best_model` is a benchmark's, and was not due with these metrics, or not reached before a
        request to stop."""
        name = (metric or "").removeprefix("eval_")
        own = {f"{one}_{figure}" for one in self.benchmarks.names for figure in FIGURES}
        return name in own and f"eval_{name}" not in metrics
