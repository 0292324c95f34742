"""Files that repeat the declarations for programs which read files: suites (`eval/suites`) and tasks of lmms-eval.

    python -m cambrian_gaze.evaluation.benchmarks.files

writes them anew in a clone, after a benchmark of the package was added or renamed; a test says whether they are
current. `quick.yaml` is a choice of its own and not written here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

from cambrian_gaze.declarations import REPOSITORY
from cambrian_gaze.evaluation.benchmarks import PROTOCOLS, SHIPPED, SUITES, Benchmark
from cambrian_gaze.files import write_text

SUITE_NOTES = {
    "image": "The fourteen columns of Table 1.",
    "video": "The six video benchmarks of the published table; their videos must lie in a local copy.",
    "video_extra": "Video benchmarks that the published table does not average.",
    "gazebench": "GazeBench's families; `cambrian-gaze gazebench make` writes their rows.",
}
"""First line of a suite's file."""


def suite_file(name: str) -> str:
    """The text of a suite's file, as `--tasks` reads it."""
    names = textwrap.wrap(f"tasks: [{', '.join(SUITES[name])}]", 119, subsequent_indent=" " * 8)
    return "\n".join([f"# {SUITE_NOTES[name]}", *names, ""])


def lmms_task(benchmark: Benchmark, protocol: str) -> tuple[str, str]:
    """Name of a benchmark's task in lmms-eval, and the text of its file."""
    name = f"cambrian_gaze_{benchmark.name}" + ("" if protocol == PROTOCOLS[0] else f"_{protocol}")
    lines = [
        f"task: {name}",
        "class: !function cambrian_gaze.evaluation.lmms.tasks.BenchmarkTask",
        f"metadata: {{benchmark: {benchmark.name}, protocol: {protocol}}}",
    ]
    return name, "\n".join([*lines, ""])


def lmms_files(benchmarks: Iterable[Benchmark] = SHIPPED) -> dict[str, str]:
    """Name → text of the task files of lmms-eval, one per benchmark and protocol."""
    tasks = (lmms_task(one, protocol) for one in benchmarks for protocol in PROTOCOLS)
    return {f"{name}.yaml": text for name, text in tasks}


def files(repository: Path = REPOSITORY) -> dict[Path, str]:
    """Path → text of all files that are written from the declarations."""
    suites = {repository / "eval" / "suites" / f"{name}.yaml": suite_file(name) for name in SUITE_NOTES}
    folder = repository / "cambrian_gaze" / "assets" / "lmms"
    return suites | {folder / name: text for name, text in lmms_files().items()}


def main() -> None:
    """Write what is not current, and delete tasks of benchmarks that are no more."""
    wanted = files()
    for path, text in wanted.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
            print(f"wrote {path}")
    for path in sorted((REPOSITORY / "cambrian_gaze" / "assets" / "lmms").glob("*.yaml")):
        if path not in wanted:
            path.unlink()
            print(f"deleted {path}")


if __name__ == "__main__":
    main()
