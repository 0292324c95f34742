"""`cambrian-gaze reproduce`: one row of a table, from training to the table."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cambrian_gaze.cli.arguments import positive

HINT = """\
Checks data and disk, plans, then runs stage 1, stage 2, for a video row the run on videos, evaluation and table.
What is done is left out: a run that ended, was killed or lost its machine goes on with the same command. Every key of
`cambrian-gaze train` is a flag too, for all of the row's training runs."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze reproduce",
        usage='cambrian-gaze reproduce TABLE --row "NAME" [options] [--key value …]',
        description=HINT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("table", nargs="?", metavar="TABLE", help="table1 or video, as train/rows.yaml names them")
    parser.add_argument("--row", metavar="NAME", help="the row, as the table names it")
    parser.add_argument("--list", action="store_true", help="the rows that there are, and the runs of each")
    parser.add_argument("--dry_run", action="store_true", help="print what is done and every command; run nothing")
    parser.add_argument("--step", metavar="NAME", help="only this step: stage1, stage2, video, evaluation, table")
    parser.add_argument(
        "--work", type=Path, default=Path(), metavar="DIR", help="for checkpoints/ and runs/; default: here"
    )
    parser.add_argument("--gpus", type=positive, metavar="N", help="of a machine; default: those there are, or 1")
    parser.add_argument("--gpu", default="h100", metavar="NAME", help="for the plan: h100, a100, …; default: h100")
    parser.add_argument("--data_root", type=Path, metavar="DIR", help="local copies of the benchmarks, as for eval")
    parser.add_argument("--protocol", default="both", choices=("cambrian", "official", "both"), help="default: both")
    parser.add_argument("--slurm", action="store_true", help="submit a job per step, each after the one before")
    parser.add_argument("--nodes", type=positive, default=1, metavar="N", help="machines of a training job; default: 1")
    parser.add_argument("--time", metavar="LIMIT", help="of a training job, such as 24:00:00")
    parser.add_argument("--preset", choices=("tiny",), help="tiny: the same chain with a tiny model, in minutes")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="align.jsonl, finetune.jsonl, video.jsonl, images/, videos/ and benchmarks/ in place of the recipes' data",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Reproduce a row. Returns the exit status: 2 where it cannot start, else that of the step that failed."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    arguments, flags = parser.parse_known_args(given)
    if arguments.list == (arguments.row is not None) or (arguments.row is not None and arguments.table is None):
        parser.error('name a table and a row: table1 --row "Cambrian-4B + Gaze 72+4"; --list shows them')
    if arguments.preset and arguments.data is None:
        parser.error("--preset tiny needs --data, a folder of small data")

    from cambrian_gaze.reproduce.commands import Options
    from cambrian_gaze.reproduce.rows import find_chain, list_rows
    from cambrian_gaze.reproduce.run import reproduce
    from cambrian_gaze.training.config.config import known_keys
    from cambrian_gaze.training.config.flags import read_flags
    from cambrian_gaze.training.config.layers import ConfigError

    try:
        if arguments.list:
            print(list_rows())
            return 0
        if unknown := sorted(set(read_flags(flags)) - set(known_keys())):
            raise ConfigError(f"unknown option --{unknown[0]}; see --help, and `cambrian-gaze train --help`")
        places = {name: getattr(arguments, name) for name in ("work", "data", "data_root")}
        options = Options(
            **places,
            gpus=arguments.gpus or _gpus(),
            nodes=arguments.nodes if arguments.slurm else 1,
            gpu=arguments.gpu,
            preset=arguments.preset,
            protocol=arguments.protocol,
            flags=tuple(flags),
        )
        again = ["reproduce", arguments.table, "--row", arguments.row, "--gpus", str(options.gpus)]
        again += ["--protocol", options.protocol]
        for name, path in places.items():
            again += [] if path in (None, Path()) else [f"--{name}", str(path)]
        again += (["--preset", options.preset] if options.preset else []) + flags
        return reproduce(
            find_chain(arguments.table, arguments.row),
            options,
            dry_run=arguments.dry_run,
            slurm=again if arguments.slurm else None,
            time=arguments.time,
            only=arguments.step,
        )
    except (ValueError, OSError) as error:
        print(f"cambrian-gaze reproduce: {error}", file=sys.stderr)
        return 2


def _gpus() -> int:
    """GPUs of this machine, without importing torch; 1 where there is none."""
    import subprocess

    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return len(visible.split(","))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return 1
    return max(1, sum(line.startswith("GPU") for line in listed.splitlines()))
