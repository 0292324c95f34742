"""Answer benchmarks with a model: checks first, then the weights, then task after task into the rank's journal.

Several processes share the work by scoring group and hardly talk to each other. Whatever a journal of the output folder
holds is not answered again, whichever process wrote it. A task that fails leaves the others their answers.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cambrian_gaze.attention.policy.policy import VisiblePolicy
from cambrian_gaze.data.media.video import FrameSampling
from cambrian_gaze.evaluation.answers import answer_questions
from cambrian_gaze.evaluation.benchmarks.declare import Benchmark
from cambrian_gaze.evaluation.benchmarks.rows import BenchmarkRows
from cambrian_gaze.evaluation.doctor import sound_rows
from cambrian_gaze.evaluation.fingerprint import processor_fingerprint, weights_fingerprint
from cambrian_gaze.evaluation.journal import Journal, alone
from cambrian_gaze.evaluation.questions import AnswerOptions
from cambrian_gaze.evaluation.ranks import Ranks
from cambrian_gaze.evaluation.results import journal_path, journals, read_results, task_name, write_task
from cambrian_gaze.evaluation.samples import Sample, first_groups, question_maker, read_samples, shard
from cambrian_gaze.plugins import loaded_plugins


@dataclass(frozen=True)
class RunOptions:
    """What to answer, and how."""

    benchmarks: Sequence[Benchmark]
    protocols: Sequence[str]
    model_name: str
    data_root: str | Path | None = None
    limit: int | None = None
    """Scoring groups per benchmark; a limited run is INCOMPLETE."""
    gaze: dict[str, Any] = field(default_factory=dict)
    """Run-time options of the gaze; empty: as the checkpoint has it."""
    policy: VisiblePolicy | None = None
    """A baseline in the place of routing; see `cambrian_gaze.baselines`."""
    batch_size: int = 16
    max_new_tokens: int | None = None
    """Cuts answers off earlier than the protocol does; such a run is INCOMPLETE."""
    sampling: FrameSampling = FrameSampling()


@dataclass(frozen=True)
class _Task:
    benchmark: Benchmark
    protocol: str
    rows: BenchmarkRows
    samples: list[Sample]
    available: int
    """Samples without a limit."""

    @property
    def name(self) -> str:
        return task_name(self.benchmark, self.protocol)


def run(
    options: RunOptions, output: str | Path, load: Callable[[str], tuple[Any, Any]], ranks: Ranks | None = None
) -> dict[str, str]:
    """Answer everything, and store it below `output` (see `results.py`).

    Args:
        load: device → (model in eval mode, processor); called once, after the data was checked.
        ranks: this process among the others; default: it is alone.

    Returns: the errors by task; empty where all went well. The same in every process.
    """
    output, ranks = Path(output), ranks or Ranks()
    errors: dict[str, str] = {}
    tasks = _prepare(options, ranks, errors)
    with alone(journal_path(output, ranks.rank)):
        if tasks:
            model, processor = load(ranks.device)
            limits = AnswerOptions(gaze=options.gaze, policy=options.policy)
            config = limits.gaze_config(model)
            identity = {
                "weights": weights_fingerprint(model),
                "processor": processor_fingerprint(processor),
                "gaze": config.to_dict(),
                **limits.policy_identity(config),
            }
            with Journal(journal_path(output, ranks.rank), journals(output)) as journal:
                ranks.wait()  # no journal grows before all processes have read it
                for task in tasks:
                    with _kept(task.name, errors):
                        _answer(task, options, output, model, processor, identity, journal, ranks)
        errors = ranks.merged(errors)
    if ranks.first:
        _store_errors(options, output, errors)
    ranks.wait()
    return errors


def _prepare(options: RunOptions, ranks: Ranks, errors: dict[str, str]) -> list[_Task]:
    """The tasks whose data can be read; the others go to `errors`."""
    tasks = []
    for benchmark in ranks.bar(options.benchmarks, "reading"):
        rows = None
        for protocol in options.protocols:
            with _kept(task_name(benchmark, protocol), errors):
                if rows is None:
                    rows = sound_rows(benchmark, options.data_root)
                samples = read_samples(benchmark, protocol, rows)
                tasks.append(_Task(benchmark, protocol, rows, first_groups(samples, options.limit), len(samples)))
    return tasks


def _answer(
    task: _Task,
    options: RunOptions,
    output: Path,
    model: Any,
    processor: Any,
    identity: dict[str, Any],
    journal: Journal,
    ranks: Ranks,
) -> None:
    """This process's share of a task; the first process also stores what the task is."""
    length = min(task.benchmark.max_new_tokens, options.max_new_tokens or task.benchmark.max_new_tokens)
    answers = AnswerOptions(
        generation={"max_new_tokens": length, "do_sample": False, "num_beams": 1},
        gaze=options.gaze,
        policy=options.policy,
        sampling=options.sampling,
        batch_size=options.batch_size,
    )
    question = question_maker(task.benchmark, task.protocol, task.rows, answers, **identity)
    if ranks.first:
        lines = [
            {
                "id": sample.id, "group": sample.group, "stratum": sample.stratum, "target": sample.target,
                "prompt": _shown(sample), "key": question(sample).key,
            }
            for sample in task.samples
        ]  # fmt: skip
        known = {
            "available": task.available,
            "model": options.model_name,
            **identity,
            "grid": list(processor.grid_hw),
            "layers": model.config.text_config.num_hidden_layers,
            "generation": answers.generation,
            "frames": options.sampling.identity() if task.benchmark.video else None,
            "limit": options.limit,
            "plugins": [plugin.to_dict() for plugin in loaded_plugins()],
        }
        write_task(output, task.name, _header(task.benchmark, task.protocol, task.rows) | known | {"samples": lines})
    mine = [question(sample) for sample in shard(task.samples, ranks.rank, ranks.world)]
    with ranks.progress(len(mine), task.name) as bar:
        answer_questions(model, processor, mine, journal, answers, bar.update)


def _header(benchmark: Benchmark, protocol: str, rows: BenchmarkRows | None) -> dict[str, Any]:
    return {
        "benchmark": benchmark.name,
        "protocol": protocol,
        "dataset": (benchmark.source if rows is None else rows.source).dataset,
        "revision": benchmark.source.revision if rows is None else rows.revision,
        "rows": 0 if rows is None else len(rows),
        "available": 0,
        "error": None,
        "samples": [],
    }


def _store_errors(options: RunOptions, output: Path, errors: dict[str, str]) -> None:
    """Write each task's error into its file, and the answers that there are."""
    for benchmark in options.benchmarks:
        for protocol in options.protocols:
            name = task_name(benchmark, protocol)
            if name in errors:
                path = output / "tasks" / f"{name}.json"
                task = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
                write_task(output, name, (task or _header(benchmark, protocol, None)) | {"error": errors[name]})
    read_results(output)


def _shown(sample: Sample) -> str:
    """The prompt as text, for readers."""
    return "".join(part.get("text", f"<{part['type']}>") for part in sample.messages[0]["content"])


@contextmanager
def _kept(name: str, errors: dict[str, str]) -> Iterator[None]:
    """An exception of one task is reported and kept, and the run goes on with the next."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        print(f"{name} failed and is left out; the other tasks go on", file=sys.stderr)
        errors[name] = f"{type(error).__name__}: {error}"
