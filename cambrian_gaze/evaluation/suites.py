"""Which benchmarks `--tasks` means: names, suites, or a file that lists them."""

from __future__ import annotations

import yaml

from cambrian_gaze.declarations import declaration
from cambrian_gaze.evaluation.benchmarks import Benchmark, find


def read_tasks(text: str) -> list[Benchmark]:
    """Benchmarks of a comma-separated list, or of a YAML file `tasks: [names]`.

    Raises: ValueError naming the file or the name that is wrong.
    """
    if not text.endswith((".yaml", ".yml")):
        return find(name.strip() for name in text.split(",") if name.strip())
    values = yaml.safe_load(declaration(text).read_text(encoding="utf-8"))
    names = values.get("tasks") if isinstance(values, dict) else None
    if not isinstance(names, list) or set(values) != {"tasks"}:
        raise ValueError(f"{text} must hold one key, tasks: [names of benchmarks or suites]")
    return find(names)
