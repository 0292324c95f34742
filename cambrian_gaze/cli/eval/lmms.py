"""`cambrian-gaze eval lmms`: run lmms-eval's tasks, and say by exit status whether there are results.

lmms-eval ends with status 0 when it fails; here the results that it writes decide. Answers are kept in a journal below
`--output`, so that a run that was killed goes on and changed weights are answered anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cambrian_gaze.cli.arguments import add_model, key_values, policy_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options; the others are those of `cambrian-gaze eval run`."""
    parser.add_argument(
        "--tasks",
        required=True,
        metavar="NAMES",
        help="tasks of lmms-eval joined by commas; ours are cambrian_gaze_mme, cambrian_gaze_mme_official, …",
    )
    add_model(parser, adapter=False)
    parser.add_argument("--output", required=True, metavar="DIR", help="results, samples and the journal of answers")


def run(arguments: argparse.Namespace, gaze: dict[str, Any]) -> int:
    """Start lmms-eval and print its scores. Returns the exit status: 1 where a task has no results."""
    from cambrian_gaze.extras import require
    from cambrian_gaze.training.launch.ranks import launch_environment

    require("lmms_eval", extra="lmms")
    output = Path(arguments.output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    before = set(output.rglob("*_results.json"))
    environment = launch_environment(arguments.num_processes, os.environ)
    if arguments.data_root is not None:
        environment["CAMBRIAN_GAZE_DATA_ROOT"] = str(Path(arguments.data_root).resolve())
    code = subprocess.run(command(arguments, output, gaze), env=environment).returncode
    written = sorted(set(output.rglob("*_results.json")) - before)
    results: dict[str, Any] = {}
    for path in written:
        results |= json.loads(path.read_text(encoding="utf-8"))["results"]
    for task, figures in results.items():
        shown = ", ".join(f"{name} {value:g}" for name, value in figures.items() if _is_figure(name, value))
        print(f"{task}: {shown}")
    missing = [name for name in arguments.tasks.split(",") if "*" not in name and name not in results]
    if code or missing or not results:
        what = f"no results of {', '.join(missing)}" if missing else "no results" if not results else f"status {code}"
        print(f"cambrian-gaze eval lmms: lmms-eval failed ({what}); its messages are above", file=sys.stderr)
        return 1
    return 0


def command(arguments: argparse.Namespace, output: Path, gaze: dict[str, Any]) -> list[str]:
    """The command line of lmms-eval, under a launcher where there are several processes."""
    import cambrian_gaze
    from cambrian_gaze.training.launch.ranks import launch_command

    model = {
        "pretrained": arguments.model,
        "journal": output / "journal",
        "fps": arguments.video_fps,
        "max_frames": arguments.video_max_frames,
        **{name: getattr(arguments, name) for name in ("video_force_sample", "video_backend", "video_timeout")},
        **gaze,
    }
    if arguments.system is not None:
        if "," in arguments.system or "=" in arguments.system:
            raise ValueError("--system: lmms-eval takes no text with commas or equals signs among its model_args")
        model["system"] = arguments.system
    if arguments.plugin:
        paths = [str(Path(path).resolve()) for path in arguments.plugin]
        if wrong := next((path for path in paths if any(sign in path for sign in f",={os.pathsep}")), None):
            raise ValueError(f"--plugin {wrong}: lmms-eval takes no path with , = or {os.pathsep} among its model_args")
        model["plugin"] = os.pathsep.join(paths)
    if arguments.policy:
        policy_from(arguments)  # raises before a process starts
        model |= {"policy": arguments.policy[0]} | key_values("--policy NAME", arguments.policy[1:])
    values = {
        "--model": "cambrian_gaze",
        "--model_args": ",".join(f"{name}={value}" for name, value in model.items()),
        "--include_path": Path(cambrian_gaze.__file__).parent / "assets" / "lmms",
        "--tasks": arguments.tasks,
        "--batch_size": arguments.batch_size,
        "--output_path": output,
        "--limit": arguments.limit,
        "--device": arguments.device,
        "--gen_kwargs": None if arguments.max_new_tokens is None else f"max_new_tokens={arguments.max_new_tokens}",
    }
    given = [str(word) for name, value in values.items() if value is not None for word in (name, value)]
    given.append("--log_samples")
    if arguments.num_processes > 1:
        return launch_command(arguments.num_processes, given, "lmms_eval")
    return [sys.executable, "-m", "lmms_eval", *given]


def _is_figure(name: str, value: Any) -> bool:
    return isinstance(value, (int, float)) and "stderr" not in name
