"""`cambrian-gaze eval`: check benchmarks, answer them, score the answers, fill a table of the paper."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze.cli.arguments import key_values, policy_from, sampling_from
from cambrian_gaze.cli.eval import cost as eval_cost
from cambrian_gaze.cli.eval import lmms as eval_lmms
from cambrian_gaze.cli.eval import routing as eval_routing
from cambrian_gaze.cli.eval.parser import build_parser, take_frames
from cambrian_gaze.cli.plugins import check_given, load_given


def gaze_options(texts: Sequence[str]) -> dict[str, Any]:
    """What `--gaze` says, as options. Raises ValueError for a text without "="."""
    return key_values("--gaze", texts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one action. Returns the exit status: 1 where something failed or is wrong."""
    given = list(sys.argv[1:] if argv is None else argv)
    action = build_parser().parse_args(given[:1]).action
    arguments = build_parser(action).parse_args(given[1:])
    processes = getattr(arguments, "num_processes", 1)
    try:
        if processes > 1 and "RANK" not in os.environ and action != "lmms":
            check_given(arguments)
            return _launch(processes, given)
        load_given(arguments)
        return _RUNNERS[action](arguments)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        print(f"cambrian-gaze eval {action}: {error}", file=sys.stderr)
        return 1


def _launch(processes: int, argv: Sequence[str]) -> int:
    """Replace this process by a launcher of several."""
    from cambrian_gaze.training.launch.ranks import launch_command, launch_environment

    command = launch_command(processes, ["eval", *argv], "cambrian_gaze.cli.main")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, launch_environment(processes, os.environ))


def _run(arguments: argparse.Namespace) -> int:
    from cambrian_gaze.evaluation.suites import read_tasks

    benchmarks = read_tasks(arguments.tasks)
    errors, first = answer(arguments, benchmarks, gaze_options(arguments.gaze), policy_from(arguments))
    if first:
        print(scored(Path(arguments.output)))
    return int(bool(errors) and first)


def answer(
    arguments: argparse.Namespace, benchmarks: Sequence[Any], gaze: dict[str, Any], policy: Any = None
) -> tuple[dict, bool]:
    """Answer benchmarks into `arguments.output`: the errors by task, and whether this is the first process."""
    from cambrian_gaze.evaluation.benchmarks import protocols
    from cambrian_gaze.evaluation.ranks import Ranks
    from cambrian_gaze.evaluation.run import RunOptions, run
    from cambrian_gaze.models.folders.source import known_source

    known_source(arguments.model)  # before the benchmarks are read, which takes a while
    options = RunOptions(
        benchmarks=benchmarks,
        protocols=protocols(arguments.protocol),
        model_name=arguments.model,
        data_root=arguments.data_root,
        limit=arguments.limit,
        gaze=gaze,
        policy=policy,
        batch_size=arguments.batch_size,
        max_new_tokens=arguments.max_new_tokens,
        sampling=sampling_from(arguments),
    )

    def load(device: str) -> tuple[Any, Any]:
        from cambrian_gaze.cli.loading import load as load_checkpoint

        return load_checkpoint(arguments.model, device, system=arguments.system)

    ranks = Ranks.from_launcher(arguments.device)
    try:
        return run(options, arguments.output, load, ranks), ranks.first
    finally:
        ranks.leave()


def scored(output: Path) -> str:
    """Write `scores.json` and return a table of the scores."""
    from cambrian_gaze.evaluation.results import read_results, write_scores

    results = read_results(output)
    write_scores(output, results)
    rows = [f"{'task':<24} {'score':>8}  {'95 % CI':<18} {'n':>6} {'missing':>7}  status"]
    for name, result in results.items():
        summary = result.summary()
        score = "–" if summary["value"] is None else f"{summary['value']:.1f}"
        interval = "–" if summary["ci95"] is None else "{:.1f} – {:.1f}".format(*summary["ci95"])
        rows.append(
            f"{name:<24} {score:>8}  {interval:<18} {summary['n']:>6} {summary['missing'] or 0:>7}  {summary['status']}"
        )
    return "\n".join([*rows, f"{output / 'scores.json'}"])


def _score(arguments: argparse.Namespace) -> int:
    print(scored(Path(arguments.run)))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from cambrian_gaze.evaluation.doctor import examine
    from cambrian_gaze.evaluation.suites import read_tasks

    sound = True
    for benchmark in read_tasks(arguments.tasks):
        problems, rows, revision = examine(benchmark, arguments.data_root)
        sound &= not problems
        print(f"{benchmark.name}: {rows} rows, revision {revision}: {len(problems) or 'no'} problems")
        for problem in problems:
            print(f"  {problem}")
    return int(not sound)


def _table(arguments: argparse.Namespace) -> int:
    from cambrian_gaze.evaluation.tables.fill import fill_row
    from cambrian_gaze.evaluation.tables.report import write_reports
    from cambrian_gaze.evaluation.tables.table import read_table

    table = read_table(arguments.table)
    row = table.row(arguments.row)
    arguments.output = arguments.output or str(Path("runs") / "eval" / row.slug)
    errors: dict[str, str] = {}
    take_frames(arguments, row.frame_options())
    if arguments.model is not None:
        errors, first = answer(arguments, table.benchmarks, row.gaze_options())
        if not first:
            return 0
    filled = fill_row(table, row, arguments.output, arguments.against)
    print(write_reports(filled, Path(arguments.output)))
    return int(bool(errors))


_RUNNERS = {
    "run": _run,
    "score": _score,
    "doctor": _doctor,
    "table": _table,
    "cost": lambda arguments: eval_cost.run(arguments, gaze_options(arguments.gaze)),
    "routing": lambda arguments: eval_routing.run(arguments, gaze_options(arguments.gaze)),
    "lmms": lambda arguments: eval_lmms.run(arguments, gaze_options(arguments.gaze)),
}
