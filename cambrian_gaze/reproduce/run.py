"""One row of a table from nothing: what is there, what is missing, what it will take, then step after step."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cambrian_gaze.reproduce.commands import Options, Step, plan_words, steps
from cambrian_gaze.reproduce.done import unfinished
from cambrian_gaze.reproduce.local import command_text, run_command, run_steps
from cambrian_gaze.reproduce.preflight import check_disk, disk_needed, missing_data
from cambrian_gaze.reproduce.rows import Chain
from cambrian_gaze.reproduce.slurm import sbatch_words, submit


def say(text: str) -> None:
    """A line for the user."""
    print(text, flush=True)


def reproduce(
    chain: Chain,
    options: Options,
    *,
    dry_run: bool = False,
    slurm: Sequence[str] | None = None,
    time: str | None = None,
    only: str | None = None,
) -> int:
    """Make one row, leaving out what is done. Returns the exit status.

    Args:
        dry_run: print the state of each step and its command, and run nothing.
        slurm: submit jobs; the words of this call, for jobs that call it for their step.
        time: limit of a training job.
        only: the one step to run; those before it must be done.

    Raises: ValueError where data or room is missing, or a folder holds another run.
    """
    every = steps(chain, options)
    names = [step.name for step in every]
    if only is not None and only not in names:
        raise ValueError(f"row {chain.row.name!r} has no step {only!r}; it has {', '.join(names)}")
    reasons = [unfinished(step, every, chain, options) for step in every]
    for number in range(1, len(every)):  # what comes after a step that is not done is not done either
        if reasons[number - 1] is not None and reasons[number] is None:
            reasons[number] = f"{names[number - 1]} comes before it"
    wanted = every if only is None else [every[names.index(only)]]
    if only is not None:
        for step, reason in zip(every[: names.index(only)], reasons, strict=False):
            if reason is not None:
                raise ValueError(f"{only} needs {step.name}, which is not done: {reason} ({step.output})")
    todo = [step for step, reason in zip(every, reasons, strict=True) if reason is not None and step in wanted]
    if dry_run:
        _show(chain, options, every, reasons, slurm, time)
        return 0
    if not todo:
        say(f"{chain.row.name}: done, {every[-1].output / 'table.md'}")
        return 0
    if missing := missing_data(todo, chain, options):
        listed = "\n  ".join(missing)
        raise ValueError(f"row {chain.row.name!r} of {chain.table_name} lacks data:\n  {listed}")
    place = options.work / "runs" / "reproduce"
    place.mkdir(parents=True, exist_ok=True)
    if any(step.run is not None for step in todo):
        plan = place / f"{chain.row.slug}.plan.json"
        if status := run_command(plan_words(chain, options, plan)):
            return status
        check_disk(disk_needed(todo, plan), options.work)
    if slurm is not None:
        submit(todo, options, slurm, place / f"{chain.row.slug}.jobs.json", time, say)
        return 0
    status = run_steps(wanted, every, chain, options, say)
    if status == 0:
        sys.stdout.flush()
        say((every[-1].output / "table.md").read_text(encoding="utf-8") if only in (None, "table") else f"{only}: done")
    return status


def _show(
    chain: Chain,
    options: Options,
    every: Sequence[Step],
    reasons: Sequence[str | None],
    slurm: Sequence[str] | None,
    time: str | None,
) -> None:
    say(f"# {chain.table_name}: {chain.row.name}")
    for missing in missing_data([s for s, r in zip(every, reasons, strict=True) if r is not None], chain, options):
        say(f"# missing: {missing}")
    say(command_text(plan_words(chain, options)))
    before = None
    for step, reason in zip(every, reasons, strict=True):
        say(f"# {step.name}: {'done' if reason is None else reason}")
        if slurm is None:
            say(command_text(step.words))
        elif reason is not None:
            words = sbatch_words(step, options, slurm, time, before)
            say(command_text(words).removeprefix("cambrian-gaze "))
            before = f"${step.name.upper()}"
