"""Scores of benchmarks while a model trains: a fixed part of each, answered by the model as it is at that moment.

Rows and media are read once, before the training; what cannot be answered is known then. Nothing is reused from one
evaluation to the next, so that neither weights nor answers need fingerprints.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cambrian_gaze.data.media.video import FrameSampling
from cambrian_gaze.evaluation.answers import answer_questions, check_answerable
from cambrian_gaze.evaluation.benchmarks.declare import PROTOCOLS, Benchmark
from cambrian_gaze.evaluation.benchmarks.rows import BenchmarkRows
from cambrian_gaze.evaluation.doctor import check_media, sound_rows
from cambrian_gaze.evaluation.journal import KeptAnswers
from cambrian_gaze.evaluation.questions import AnswerOptions, Question
from cambrian_gaze.evaluation.ranks import Ranks
from cambrian_gaze.evaluation.samples import Sample, fixed_part, question_maker, read_samples, shard
from cambrian_gaze.evaluation.suites import read_tasks
from cambrian_gaze.evaluation.tables.columns import score_column
from cambrian_gaze.files import write_text

logger = logging.getLogger(__name__)

PROTOCOL = PROTOCOLS[0]
"""The one of the paper's tables."""


@dataclass(frozen=True)
class PartOptions:
    """Which parts of which benchmarks are answered, and how."""

    tasks: Sequence[str]
    """Benchmarks or suites, or files that list them, as `cambrian-gaze eval run --tasks` takes them."""
    limit: int
    """Scoring groups per benchmark; 0: all."""
    folder: Path
    """The first process writes the answers of step N to `NAME/step-N.jsonl` below it."""
    data_root: str | Path | None = None
    """Local copies of the datasets, in `OWNER/NAME` below it; None: the hub and its cache (not for videos)."""
    batch_size: int = 8
    sampling: FrameSampling = FrameSampling()


@dataclass(frozen=True)
class _Part:
    benchmark: Benchmark
    samples: list[Sample]
    question: Callable[[Sample], Question]
    options: AnswerOptions


class BenchmarkParts:
    """Answers and scores the same part of each benchmark again and again; several processes share it by scoring group.

    What is wrong with names and data stands in `problems`, one line each; only without any can it be used.
    """

    def __init__(self, options: PartOptions, ranks: Ranks | None = None) -> None:
        self.options, self.ranks = options, ranks or Ranks()
        self.problems: list[str] = []
        self._parts: list[_Part] = []
        self._unanswered: set[tuple[str, str]] = set()
        benchmarks: dict[str, Benchmark] = {}
        for text in options.tasks:
            try:
                benchmarks |= {one.name: one for one in read_tasks(text)}
            except (ValueError, OSError) as error:
                self.problems.append(_line(error))
        self.names = tuple(benchmarks)
        """The benchmarks, suites opened, in the order given."""
        looked = self.ranks.gathered([self._look(one) for one in benchmarks.values()] if self.ranks.first else None)[0]
        for benchmark, (numbers, problem) in zip(benchmarks.values(), looked, strict=True):
            try:
                self._parts.append(self._read(benchmark, numbers, problem))
            except (ValueError, OSError, ImportError) as error:
                self.problems.append(f"{benchmark.name}: {_line(error)}")

    @property
    def questions(self) -> int:
        """Questions of all parts."""
        return sum(len(part.samples) for part in self._parts)

    def try_out(self, model: Any, processor: Any) -> list[str]:
        """What is wrong with the longest question of each part for this model: it may have more tokens than positions.
        Nothing is answered."""
        problems = []
        for part in self._parts:
            longest = max(part.samples, key=lambda one: sum(len(p.get("text", "")) for p in one.messages[0]["content"]))
            try:
                check_answerable(model, processor, part.question(longest), part.options)
            except ValueError as error:
                problems.append(f"{part.benchmark.name}: {_line(error)}")
        return problems

    def scores(
        self,
        model: Any,
        processor: Any,
        step: int,
        beat: Callable[[str], object],
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, float]:
        """`NAME_score`, and the ends of its 95 % interval over scoring groups, `NAME_low` and `NAME_high`, of each
        benchmark, the same in every process. `NAME_missing` counts questions that could not be asked, where there are
        any; they are wrong. A collective.

        Args:
            model: in eval mode, under the precision that it is to answer in.
            step: after which it is asked.
            beat: called with what comes next, before each batch.
            stop: asked before each benchmark, by all processes; where it is true, no further one is answered.

        Raises: RuntimeError in every process where one of them failed.
        """
        found = {}
        for number, part in enumerate(self._parts):
            name = part.benchmark.name
            beat(f"a batch of {name}")
            if stop():
                left = ", ".join(one.benchmark.name for one in self._parts[number:])
                logger.warning("step %d: %s not answered: the run is to stop", step, left)
                break
            lines = self._answered(part, model, processor, beat)
            column = score_column(part.benchmark, PROTOCOL, lines)
            low, high = column.interval()
            found |= {f"{name}_score": column.value, f"{name}_low": low, f"{name}_high": high}
            if column.missing:
                found[f"{name}_missing"] = float(column.missing)
            if self.ranks.first:
                text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
                write_text(self.options.folder / name / f"step-{step}.jsonl", text)
        return found

    def _look(self, benchmark: Benchmark) -> tuple[list[int], str | None]:
        """Which rows the part is made of, and what is wrong with them or their files. It reads all rows; so one process
        looks for all."""
        try:
            return self._numbers(benchmark), None
        except (ValueError, OSError, ImportError) as error:
            return [], _line(error)

    def _numbers(self, benchmark: Benchmark) -> list[int]:
        options = self.options
        if benchmark.judge:
            raise ValueError(f"a judge model decides {benchmark.judge}, and there is none here; leave it out")
        if benchmark.video and options.data_root is None:
            dataset = benchmark.source.dataset
            raise ValueError(
                f"its videos are read from a local copy only; unpack {dataset} in ROOT/{dataset} and set "
                "eval_tasks_data_root: ROOT"
            )
        try:
            rows = sound_rows(benchmark, options.data_root)
        except ValueError as error:
            if options.data_root is not None:
                raise
            raise ValueError(f"{error}; local copies are read from eval_tasks_data_root") from error
        numbers = fixed_part(benchmark, rows, options.limit)
        if problems := check_media(benchmark, rows, numbers=numbers):
            raise ValueError("; ".join(problems))
        return numbers

    def _read(self, benchmark: Benchmark, numbers: Sequence[int], problem: str | None) -> _Part:
        """Raises ValueError, OSError or ImportError in one line."""
        options = self.options
        if problem is not None:
            raise ValueError(problem)
        rows = BenchmarkRows(benchmark, options.data_root)
        samples = read_samples(benchmark, PROTOCOL, rows, numbers)
        # A model in training is told to keep no cache.
        generation = {"max_new_tokens": benchmark.max_new_tokens, "do_sample": False, "num_beams": 1, "use_cache": True}
        answers = AnswerOptions(generation=generation, sampling=options.sampling, batch_size=options.batch_size)
        return _Part(benchmark, samples, question_maker(benchmark, PROTOCOL, rows, answers), answers)

    def _answered(self, part: _Part, model: Any, processor: Any, beat: Callable[[str], object]) -> list[dict[str, Any]]:
        """The part's samples as `score_column` takes them, with everybody's answers."""
        name, failure = part.benchmark.name, None
        mine = [part.question(sample) for sample in shard(part.samples, self.ranks.rank, self.ranks.world)]
        kept = KeptAnswers()
        beat(f"a batch of {name}")
        try:
            answer_questions(
                model,
                processor,
                mine,
                kept,
                part.options,
                progress=lambda count: beat(f"a batch of {name}"),
                failed=lambda question, error: self._say(name, question, error),
            )
        except Exception as error:  # Whatever it is, the others must not wait for this process.
            failure = error
        told = (
            {entry["id"]: entry["answer"] for entry in kept.values()},
            None if failure is None else f"{name}: {type(failure).__name__}: {failure}",
        )
        shares = self.ranks.gathered(told)
        if failures := [said for _, said in shares if said is not None]:
            raise RuntimeError(failures[0]) from failure
        answers = {key: answer for share, _ in shares for key, answer in share.items()}
        return [
            {
                "id": sample.id, "group": sample.group, "stratum": sample.stratum, "target": sample.target,
                "answer": answers.get(sample.id),
            }
            for sample in part.samples
        ]  # fmt: skip

    def _say(self, name: str, question: str, error: Exception) -> None:
        if (name, question) not in self._unanswered:
            self._unanswered.add((name, question))
            logger.warning("%s: %s cannot be asked and counts as wrong (%s)", name, question, error)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
