"""From a benchmark's rows to the samples of a run: what is asked, under which key, and what the scorer will need."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cambrian_gaze.evaluation.benchmarks.declare import Benchmark, Part, Row, VideoRef
from cambrian_gaze.evaluation.benchmarks.rows import BenchmarkRows
from cambrian_gaze.evaluation.journal import entry_key
from cambrian_gaze.evaluation.questions import AnswerOptions, Question


@dataclass(frozen=True)
class Sample:
    """One row under one protocol. Pictures stay on disk."""

    id: str
    row: int
    group: str
    stratum: str
    target: dict[str, Any]
    messages: list[dict[str, Any]]
    """The prompt, pictures and videos not loaded."""
    media: list[str]
    """Fingerprints of its pictures and videos."""


def read_samples(
    benchmark: Benchmark, protocol: str, rows: BenchmarkRows, numbers: Sequence[int] | None = None
) -> list[Sample]:
    """The samples of a benchmark in the order of its rows; with `numbers`, those of these rows.

    Raises: ValueError naming the row where two have one id; MediaError where a file is missing.
    """
    samples: list[Sample] = []
    seen: dict[str, int] = {}
    for number in range(len(rows)) if numbers is None else numbers:
        row = rows[number]
        if benchmark.keep is not None and not benchmark.keep(row):
            continue
        identity = benchmark.identity(row, number)
        if identity in seen:
            raise ValueError(
                f"{benchmark.name}: rows {seen[identity]} and {number} have one id, {identity!r}; the copy of "
                f"{benchmark.source.dataset} is damaged, download it again"
            )
        seen[identity] = number
        parts = benchmark.ask(row, protocol)
        media = [rows.fingerprint(part) for part in parts if not isinstance(part, str)]
        target = benchmark.target(row, protocol)
        group = sample_group(benchmark, row, number)
        samples.append(Sample(identity, number, group, benchmark.stratum(row), target, _messages(parts), media))
    return samples


def sample_group(benchmark: Benchmark, row: Row, number: int) -> str:
    """The scoring group of a row: by itself where the benchmark names none."""
    return str(number) if benchmark.group is None else benchmark.group(row)


def fixed_part(benchmark: Benchmark, rows: BenchmarkRows, limit: int) -> list[int]:
    """Numbers of the rows of `limit` scoring groups, in their order; of all groups for 0.

    A group's digest draws it, so that the part neither depends on the order of the rows nor ever changes. The strata
    give one in turn: a figure that is made of all of them keeps its scale.

    Raises: ValueError where `limit` leaves strata out, or there is nothing to answer.
    """
    numbers: dict[str, list[int]] = {}
    strata: dict[str, list[tuple[str, str]]] = {}
    for number, row in enumerate(rows):
        if benchmark.keep is not None and not benchmark.keep(row):
            continue
        name = benchmark.identity(row, number) if benchmark.group is None else benchmark.group(row)
        if name not in numbers:
            drawn = hashlib.sha256(f"{benchmark.name} {name}".encode()).hexdigest()
            strata.setdefault(benchmark.stratum(row), []).append((drawn, name))
        numbers.setdefault(name, []).append(number)
    if not numbers:
        raise ValueError(f"{rows.source.dataset} has no row that {benchmark.name} asks about")
    if 0 < limit < len(strata):
        raise ValueError(
            f"a part of {limit} scoring groups leaves out some of the {len(strata)} categories of {benchmark.name}; "
            f"take at least {len(strata)}"
        )
    turns = sorted((turn, *one) for groups in strata.values() for turn, one in enumerate(sorted(groups)))
    chosen = [name for _, _, name in turns[: limit or None]]
    return sorted(number for name in chosen for number in numbers[name])


def shard(samples: Sequence[Sample], rank: int, world: int) -> list[Sample]:
    """The samples of one rank: scoring groups in turn, each whole."""
    places = _places(samples)
    return [sample for sample in samples if places[sample.group] % world == rank]


def first_groups(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """The samples of the first `limit` scoring groups; all for None."""
    places = _places(samples)
    return [sample for sample in samples if limit is None or places[sample.group] < limit]


def _places(samples: Sequence[Sample]) -> dict[str, int]:
    """Scoring groups, numbered in order of appearance."""
    return {group: place for place, group in enumerate(dict.fromkeys(sample.group for sample in samples))}


def question_maker(
    benchmark: Benchmark, protocol: str, rows: BenchmarkRows, options: AnswerOptions, **identity: str
) -> Callable[[Sample], Question]:
    """Sample → question.

    Args:
        identity: what else an answer depends on, such as the fingerprints of weights and processor, and the gaze.
    """
    frames = options.sampling.identity() if benchmark.video else None
    more = {} if benchmark.video else {"transparency": "dropped"}  # earlier versions put it on white

    def question(sample: Sample) -> Question:
        key = entry_key(
            benchmark=benchmark.name,
            revision=rows.revision,
            id=sample.id,
            prompt=sample.messages,
            media=sample.media,
            generation=options.generation,
            frames=frames,
            **more,
            **identity,
        )

        def load() -> list[dict[str, Any]]:
            return _messages(
                benchmark.ask(rows[sample.row], protocol), lambda medium: rows.load(medium, options.sampling)
            )

        return Question(sample.id, sample.messages, key, load)

    return question


def _messages(parts: Sequence[Part], load: Callable[[Any], Any] | None = None) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        else:
            kind = "video" if isinstance(part, VideoRef) else "image"
            content.append({"type": kind} if load is None else {"type": kind, kind: load(part)})
    return [{"role": "user", "content": content}]
