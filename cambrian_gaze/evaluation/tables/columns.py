"""One benchmark under one protocol: scored answers to one number, with its interval.

A sample without an answer is wrong and counts. Nothing here needs a model or the benchmark's data.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cambrian_gaze.evaluation.benchmarks.declare import Benchmark
from cambrian_gaze.evaluation.tables.intervals import DRAWS, percentiles, ratio_draws

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ScoreColumn:
    """The scores of one benchmark under one protocol."""

    benchmark: Benchmark
    protocol: str
    tables: Mapping[str, Mapping[str, list[tuple[float, float]]]]
    """Stratum → group → (right, of) per figure of the benchmark."""
    samples: int
    """All that should have been answered."""
    missing: int
    """Samples without an answer."""
    empty: int
    """Answers of white space only."""
    undecided: int
    """Answers from which the scorer could not tell what was meant."""

    @property
    def value(self) -> float:
        """The column's figure: 0 to 100, or points up to `maximum`."""
        ratios = {}
        for stratum in self.tables:
            right, of = self._arrays(stratum)
            ratios[stratum] = right.sum(0) / of.sum(0)
        return float(self._combined({name: ratio[None] for name, ratio in ratios.items()})[0])

    @property
    def maximum(self) -> float:
        """What an oracle reaches."""
        return 100.0 * len(self.benchmark.figures) * (len(self.tables) if self.benchmark.combine == "sum" else 1)

    @property
    def groups(self) -> int:
        """Scoring groups."""
        return sum(len(table) for table in self.tables.values())

    @cached_property
    def draws(self) -> np.ndarray:
        """The figure in each bootstrap resample: [DRAWS]. The same groups are drawn for the same benchmark."""
        name = zlib.crc32(self.benchmark.name.encode())
        drawn = {}
        for stratum in self.tables:
            right, of = self._arrays(stratum)
            drawn[stratum] = ratio_draws(right, of, DRAWS, [name, zlib.crc32(stratum.encode())])
        return self._combined(drawn)

    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval over scoring groups."""
        return percentiles(self.draws)

    def check_paired(self, other: ScoreColumn) -> None:
        """Raises ValueError unless `other` holds the same groups, so that the two can be compared group by group."""
        for table, name in ((self, "this run"), (other, "the other")):
            if table.missing:
                raise ValueError(f"{self.benchmark.name}: {name} lacks {table.missing} answers; finish it first")
        mine = {stratum: sorted(table) for stratum, table in self.tables.items()}
        if mine != {stratum: sorted(table) for stratum, table in other.tables.items()}:
            raise ValueError(
                f"{self.benchmark.name}: the runs do not hold the same scoring groups ({self.groups} and "
                f"{other.groups}); answer the same samples in both"
            )

    def _arrays(self, stratum: str) -> tuple[np.ndarray, np.ndarray]:
        """(right, of), each [groups, figures], groups in the order of their names."""
        import numpy as np

        table = self.tables[stratum]
        array = np.array([table[group] for group in sorted(table)], dtype=np.float64)
        return array[..., 0], array[..., 1]

    def _combined(self, ratios: Mapping[str, np.ndarray]) -> np.ndarray:
        """[draws, figures] per stratum → [draws]."""
        if self.benchmark.combine == "sum":
            return 100.0 * sum(ratio.sum(1) for ratio in ratios.values())
        weights = {stratum: self.benchmark.weights.get(stratum, 1.0) for stratum in ratios}
        total = sum(weights.values())
        return 100.0 * sum(weights[stratum] / total * ratio.mean(1) for stratum, ratio in ratios.items())


def score_column(benchmark: Benchmark, protocol: str, lines: Iterable[Mapping[str, Any]]) -> ScoreColumn:
    """Score samples: mappings with `id`, `group`, `stratum`, `target` and `answer` (None where there is none).

    Raises: ValueError where there are no samples.
    """
    score = benchmark.score[protocol]
    scores: dict[str, dict[str, list[float]]] = {}
    samples = missing = empty = undecided = 0
    for line in lines:
        samples += 1
        answer = line["answer"]
        if answer is None:
            missing += 1
        elif not answer.strip():
            empty += 1
        right: float | None = score(answer, line["target"]) if answer is not None and answer.strip() else 0.0
        if right is None:
            undecided += 1
        scores.setdefault(line["stratum"], {}).setdefault(line["group"], []).append(right or 0.0)
    if not samples:
        raise ValueError(f"{benchmark.name}: there are no samples to score")
    tables = {
        stratum: {group: [_figure(kind, rights) for kind in benchmark.figures] for group, rights in groups.items()}
        for stratum, groups in scores.items()
    }
    return ScoreColumn(benchmark, protocol, tables, samples, missing, empty, undecided)


def _figure(kind: str, rights: list[float]) -> tuple[float, float]:
    """(right, of) of one group."""
    return (sum(rights), len(rights)) if kind == "share" else (float(all(right == 1.0 for right in rights)), 1.0)
