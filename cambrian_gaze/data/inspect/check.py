"""Is a recipe ready to train on? Counts per source, differences from what was expected, a quarantine list."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cambrian_gaze.data.errors import KINDS
from cambrian_gaze.data.inspect.record import Inspector, Problem
from cambrian_gaze.data.inspect.stats import doubling_bins, statistics
from cambrian_gaze.data.inspect.survey import Finding, SourceSurvey, survey
from cambrian_gaze.data.mixture.recipe import Recipe
from cambrian_gaze.data.quarantine import Quarantined
from cambrian_gaze.files import replacing

EXAMPLES = 5
"""Findings kept per kind and source, to be shown; all of them are in the quarantine list."""


@dataclass
class SourceReport:
    """The outcome for one source."""

    survey: SourceSurvey
    examples: dict[str, list[tuple[int, Problem]]] = field(default_factory=dict)
    """Kind → the first few rows and what is wrong with them."""

    @property
    def found(self) -> dict[str, int]:
        """The counts that a recipe may state as `expected`."""
        facts = self.survey.facts
        return {
            "rows": facts.rows,
            "images": facts.images,
            "videos": facts.videos,
            "missing": facts.problems["missing"],
            "duplicates": facts.duplicates,
        }

    @property
    def differences(self) -> dict[str, tuple[int, int]]:
        """Key → (expected, found) where the two differ."""
        found = self.found
        expected = self.survey.source.expected
        return {key: (count, found[key]) for key, count in expected.items() if found[key] != count}

    @property
    def clean(self) -> bool:
        """Nothing is wrong, and nothing but what the recipe expects: as many missing media as it states are."""
        problems = {kind for kind, count in self.survey.facts.problems.items() if count}
        if "missing" in self.survey.source.expected:
            problems -= {"missing"}
        return not (self.survey.broken or problems or self.differences)

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        source, facts = self.survey.source, self.survey.facts
        return {
            "name": source.name,
            "file": source.path,
            "broken": self.survey.broken or None,
            "clean": self.clean,
            "rows": facts.rows,
            "bad_rows": facts.bad_rows,
            "text_only": facts.text_only,
            "images": facts.images,
            "videos": facts.videos,
            "duplicates": facts.duplicates,
            "problems": {kind: facts.problems[kind] for kind in KINDS},
            "expected": dict(source.expected),
            "differences": {key: {"expected": a, "found": b} for key, (a, b) in self.differences.items()},
            "token_histogram": doubling_bins(facts.lengths),
            "statistics": statistics(facts),
            "examples": {
                kind: [{"row": row, "reason": str(problem)} for row, problem in shown]
                for kind, shown in self.examples.items()
            },
        }


def check(
    recipe: Recipe, inspector: Inspector, workers: int | None = None, quarantine: str | os.PathLike[str] | None = None
) -> list[SourceReport]:
    """Looks at every row of every source.

    `quarantine`: where to write the rows that a run cannot use, as JSONL that `--exclude` takes. Over-long rows are
    not among them: the run's own policy decides about these.
    """
    reports: dict[int, SourceReport] = {}
    with _quarantine_list(quarantine) as write:
        for one, findings in survey(recipe, inspector, workers):
            report = reports.setdefault(id(one), SourceReport(one))
            for finding in findings:
                for problem in finding.problems:
                    shown = report.examples.setdefault(problem.kind, [])
                    if len(shown) < EXAMPLES:
                        shown.append((finding.row, problem))
                write(one, finding)
    return list(reports.values())


@contextmanager
def _quarantine_list(path: str | os.PathLike[str] | None) -> Iterator[Callable[[SourceSurvey, Finding], None]]:
    """A function that notes a finding. The list takes its place when the block ends well."""
    if path is None:
        yield lambda one, finding: None
        return
    place = os.path.abspath(path)
    with replacing(place) as temporary, temporary.open("wb") as stream:

        def write(one: SourceSurvey, finding: Finding) -> None:
            problems = [problem for problem in finding.problems if problem.kind != "overlong"]
            if problems:
                source, reasons = one.source, "; ".join(map(str, problems))
                item = Quarantined(source.path, finding.row, finding.id, reasons, source.name, problems[0].kind)
                stream.write((json.dumps(vars(item)) + "\n").encode("ascii"))

        yield write


def is_clean(reports: list[SourceReport]) -> bool:
    """Whether no source has a finding."""
    return all(report.clean for report in reports)
