"""Columns: strata, weights, pairs."""

import pytest

from cambrian_gaze.evaluation.benchmarks import BENCHMARKS
from cambrian_gaze.evaluation.tables.columns import ScoreColumn, score_column
from cambrian_gaze.evaluation.tables.intervals import percentiles


def column(name: str, rights: dict[str, list[int]], of: int = 4) -> ScoreColumn:
    """Stratum → right answers per group, each group of `of` samples."""
    lines = [
        {"group": f"{stratum} {group}", "stratum": stratum, "target": {"answer": "yes", "options": {"A": "", "B": ""}},
         "answer": "yes" if place < right else "no"}
        for stratum, groups in rights.items()
        for group, right in enumerate(groups)
        for place in range(of)
    ]  # fmt: skip
    return score_column(BENCHMARKS[name], "cambrian", lines)


def test_pairs_share_their_noise() -> None:
    base = [n % 4 for n in range(40)]
    one, other = column("gqa", {"": [n + 1 for n in base]}), column("gqa", {"": base})
    one.check_paired(other)
    assert percentiles(one.draws - other.draws) == pytest.approx((25.0, 25.0))
    low, high = one.interval()
    assert high - low > 10


def test_strata_are_drawn_by_themselves() -> None:
    """Ten groups all right in one category, ten all wrong in the other: the sum has no noise."""
    both = column("mme", {"color": [2] * 10, "count": [0] * 10}, of=2)
    assert both.value == 200.0 and both.maximum == 400.0
    assert both.interval() == pytest.approx((200.0, 200.0))
    mixed = column("mme", {"color": [2, 0] * 10}, of=2)
    assert mixed.value == 100.0 and mixed.interval()[0] < 80 < 120 < mixed.interval()[1]


def test_runs_with_other_groups_or_missing_answers_are_no_pairs() -> None:
    one, other = column("gqa", {"": [1, 2]}), column("gqa", {"": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"do not hold the same scoring groups \(2 and 3\)"):
        one.check_paired(other)
    lines = [{"group": "0", "stratum": "", "target": {"answer": "yes"}, "answer": None}]
    missing = score_column(BENCHMARKS["gqa"], "cambrian", lines)
    with pytest.raises(ValueError, match="the other lacks 1 answers"):
        one.check_paired(missing)


def test_nothing_to_score() -> None:
    with pytest.raises(ValueError, match="no samples"):
        score_column(BENCHMARKS["gqa"], "cambrian", [])
