"""`cambrian-gaze eval`: check benchmarks, answer them, score the answers, fill a table of the paper."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze.cli.arguments import (
    add_policy,
    add_system,
    add_video,
    key_values,
    policy_from,
    positive,
    sampling_from,
)
from cambrian_gaze.cli.eval import cost as eval_cost
from cambrian_gaze.cli.eval import lmms as eval_lmms
from cambrian_gaze.cli.eval import routing as eval_routing

ACTIONS = {
    "run": "answer benchmarks with a model, and score the answers",
    "score": "score the answers of a run again; needs no model and no data",
    "doctor": "check schema, counts and media of benchmarks; needs no model",
    "table": "fill one row of a table: run what is missing, compare with the paper",
    "cost": "measure what attention costs, dense beside gaze, prefill and decoding apart",
    "routing": "measure whether routing finds the place that a phrase is about; needs the extra routing",
    "lmms": "run tasks of lmms-eval, or our benchmarks in it; needs the extra lmms",
}


def build_parser(action: str | None = None) -> argparse.ArgumentParser:
    """The parser of one action; of `cambrian-gaze eval` itself for None."""
    if action is None:
        width = max(map(len, ACTIONS))
        lines = [f"  {name:<{width}}  {summary}" for name, summary in ACTIONS.items()]
        hint = "'cambrian-gaze eval ACTION --help' shows the options."
        parser = argparse.ArgumentParser(
            prog="cambrian-gaze eval",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            description="\n".join(["Evaluate on public benchmarks. One of:", *lines, "", hint]),
        )
        parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help="what to do")
        return parser
    summary = ACTIONS[action]
    parser = argparse.ArgumentParser(
        prog=f"cambrian-gaze eval {action}", allow_abbrev=False, description=f"{summary[0].upper()}{summary[1:]}."
    )
    if action == "cost":
        eval_cost.add_arguments(parser)
        _add_gaze(parser)
        return parser
    if action == "routing":
        eval_routing.add_arguments(parser)
        _add_gaze(parser)
        return parser
    if action == "lmms":
        eval_lmms.add_arguments(parser)
    if action == "score":
        parser.add_argument("run", metavar="DIR", help="the --output of a run")
    elif action == "table":
        parser.add_argument("table", metavar="TABLE.yaml", help="such as eval/tables/table1.yaml")
        parser.add_argument("--row", required=True, metavar="NAME", help="the row to fill, as the table names it")
        parser.add_argument("--against", metavar="DIR", help="another run: differences, paired by scoring group")
    if action in ("run", "doctor"):
        parser.add_argument(
            "--tasks",
            required=True,
            metavar="NAMES",
            help="benchmarks or suites joined by commas (image, video, mme, gqa, …), or a suite file such as "
            "eval/suites/image.yaml",
        )
    if action in ("run", "table"):
        parser.add_argument("--model", required=action == "run", metavar="DIR", help=_MODEL_HELP[action])
    if action in ("run", "table", "lmms"):
        _add_run(parser, "rows per task" if action == "lmms" else "scoring groups per benchmark")
    if action == "table":
        # None: not given, so that the row's own frames can be told from what contradicts them.
        parser.set_defaults(**dict.fromkeys(_frame_defaults(parser)))
    if action != "score":
        _add_data(parser)
    if action in ("run", "lmms"):
        _add_gaze(parser)
    if action == "run":
        add_policy(parser)
        parser.add_argument("--output", required=True, metavar="DIR", help="journals, answers and scores")
    if action == "table":
        parser.add_argument("--output", metavar="DIR", help="the run's folder; default: runs/eval/ROW")
    if action in ("run", "table"):
        parser.add_argument(
            "--protocol",
            default="cambrian" if action == "run" else "both",
            choices=("cambrian", "official", "both"),
            help="the parent's rules, the benchmarks' own, or both; default: %(default)s",
        )
    return parser


def _frame_defaults(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The options of frames, and their defaults."""
    return {action.dest: action.default for action in parser._actions if action.dest.startswith("video_")}


def _take_frames(arguments: argparse.Namespace, wanted: dict[str, Any]) -> None:
    """Fill in how frames are chosen: as the row has it, else as given, else the default.

    Raises: ValueError where an option contradicts the row.
    """
    parser = argparse.ArgumentParser()
    add_video(parser)
    for name, default in _frame_defaults(parser).items():
        given = getattr(arguments, name)
        if name in wanted and given is not None and given != wanted[name]:
            raise ValueError(f"the row has {name}: {wanted[name]}, so --{name} {given} would make another row")
        setattr(arguments, name, wanted.get(name, default if given is None else given))


_MODEL_HELP = {
    "run": "folder of save_pretrained, or a Hub name",
    "table": "folder of save_pretrained, or a Hub name; without it the answers in --output are taken as they are",
}


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data_root",
        "--data-root",
        metavar="DIR",
        help="local copies of the datasets, in DIR/OWNER/NAME; default: the hub and its cache (not for videos)",
    )


def _add_run(parser: argparse.ArgumentParser, limited: str) -> None:
    parser.add_argument("--num_processes", type=positive, default=1, metavar="N", help="processes; default: 1")
    parser.add_argument("--batch_size", type=positive, default=16, metavar="N", help="per process; default: 16")
    parser.add_argument("--limit", type=positive, metavar="N", help=f"only N {limited}; the run is then INCOMPLETE")
    parser.add_argument(
        "--max_new_tokens", type=positive, metavar="N", help="cut answers off for a trial; the run is then INCOMPLETE"
    )
    add_video(parser)
    add_system(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; default: cuda where there is one, one per process")


def _add_gaze(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gaze",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="run-time options of the gaze, such as top_k=2 or keep_ratio=1.0; default: as the checkpoint has it",
    )


def gaze_options(texts: Sequence[str]) -> dict[str, Any]:
    """What `--gaze` says, as options. Raises ValueError for a text without "="."""
    return key_values("--gaze", texts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one action. Returns the exit status: 1 where something failed or is wrong."""
    given = list(sys.argv[1:] if argv is None else argv)
    action = build_parser().parse_args(given[:1]).action
    arguments = build_parser(action).parse_args(given[1:])
    processes = getattr(arguments, "num_processes", 1)
    if processes > 1 and "RANK" not in os.environ and action != "lmms":
        return _launch(processes, given)
    try:
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
    errors, first = answer(arguments, benchmarks, gaze_options(arguments.gaze), policy_from(arguments.policy))
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
    _take_frames(arguments, row.frame_options())
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
