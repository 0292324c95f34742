"""The steps of a row as SLURM jobs, each of which waits for the one before it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from cambrian_gaze.files import write_json
from cambrian_gaze.reproduce.commands import Options, Step

SCRIPTS = Path("scripts") / "slurm"


def submit(
    todo: Sequence[Step], options: Options, again: Sequence[str], jobs_file: Path, time: str | None,
    say: Callable[[str], None],
) -> list[str]:  # fmt: skip
    """Submit the steps that are left, and write their job numbers to `jobs_file`. Returns them.

    Args:
        again: the words of `cambrian-gaze reproduce` for this row, to which `--step NAME` is added for evaluation and
            table.
        time: limit of a training job, as sbatch takes it.

    Raises: ValueError outside of a clone, and where jobs of an earlier call are still queued; OSError where sbatch is
        not there or refuses, with the jobs submitted so far.
    """
    if not SCRIPTS.is_dir():
        raise ValueError(f"there is no {SCRIPTS} here: submit from a clone of the repository")
    check_not_queued(jobs_file)
    jobs: list[str] = []
    for step in todo:
        command = sbatch_words(step, options, again, time, jobs[-1] if jobs else None)
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            left = f"; submitted before it: {', '.join(jobs)} (scancel {' '.join(jobs)})" if jobs else ""
            raise OSError(f"sbatch refused {step.name}: {said.strip()}{left}") from error
        jobs.append(done.stdout.strip().split(";")[0])
        write_json(jobs_file, dict(zip([one.name for one in todo], jobs, strict=False)))
        say(f"{step.name}: job {jobs[-1]}" + (f", after {jobs[-2]}" if len(jobs) > 1 else ""))
    return jobs


def sbatch_words(step: Step, options: Options, again: Sequence[str], time: str | None, after: str | None) -> list[str]:
    """The command that submits a step; `after`: the job that must have ended well before."""
    nodes = options.nodes if step.run is not None else 1
    words = ["sbatch", "--parsable", "--job-name", f"cambrian-gaze-{step.name}", "--nodes", str(nodes)]
    words += ["--gpus-per-node", str(options.gpus)]
    words += ["--time", time] if time and step.run is not None else []
    words += ["--dependency", f"afterok:{after}"] if after else []
    if step.run is None:
        return [*words, str(SCRIPTS / "step.sbatch"), *again, "--step", step.name]
    # Ranks come from the job, by scripts/launch.sh.
    given = list(step.words[1:])
    if "--nproc_per_node" in given:
        place = given.index("--nproc_per_node")
        del given[place : place + 2]
    return [*words, str(SCRIPTS / "train.sbatch"), *given]


def check_not_queued(jobs_file: Path) -> None:
    """Raises: ValueError where jobs of an earlier call still wait or run."""
    if not jobs_file.is_file() or shutil.which("squeue") is None:
        return
    jobs = list(json.loads(jobs_file.read_text(encoding="utf-8")).values())
    asked = ["squeue", "--noheader", "--format=%i", "--jobs", ",".join(jobs)]
    queued = subprocess.run(asked, capture_output=True, text=True).stdout.split()  # forgotten jobs: an error, no lines
    if queued:
        raise ValueError(f"jobs of this row are still queued: {', '.join(queued)}; wait for them, or scancel them")
