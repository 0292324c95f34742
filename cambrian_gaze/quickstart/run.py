"""The quickstart: pages, a tower that sees, stage 1, stage 2 dense and with gaze, evaluation, report.

Every step leaves a marker in `steps/` once it is complete and is skipped where its marker matches what the step would
do now; an interrupted training continues from its last checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze import __version__
from cambrian_gaze.machine import cores, cpu_name, versions
from cambrian_gaze.quickstart.arms import ARMS, TRACED
from cambrian_gaze.quickstart.digits import PageSpec, build_pages
from cambrian_gaze.quickstart.plan import QuickstartPlan, full_plan, smoke_plan
from cambrian_gaze.quickstart.steps import Steps

TRAININGS = {"stage 1": "stage1", "stage 2 dense": "dense", "stage 2 gaze": "gaze"}
"""Step → folder of its training run."""


PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "tokenizers", "scikit-learn")
"""Whose versions stand in `results.json`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the quickstart from the command line; 0 where every step succeeded."""
    from cambrian_gaze.quickstart.train import TrainingFailed

    arguments = _parse(argv)
    plan = smoke_plan(arguments.seed) if arguments.smoke else full_plan(arguments.seed)
    output = Path(arguments.output_dir or ("runs/quickstart-smoke" if arguments.smoke else "runs/quickstart"))
    try:
        results = run(plan, output.resolve(), force=arguments.force)
    except (ImportError, OSError, ValueError, TrainingFailed) as error:
        print(f"cambrian-gaze quickstart: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command continues here", file=sys.stderr)
        return 130
    print_summary(results, output)
    return 0


def run(plan: QuickstartPlan, output: Path, force: bool = False) -> dict[str, Any]:
    """All steps of `plan` into `output`; returns the content of `results.json`."""
    import torch

    from cambrian_gaze.quickstart.train import train

    output.mkdir(parents=True, exist_ok=True)
    steps = Steps(output / "steps", force)
    machine = _machine()
    device = "cuda" if machine["hardware"]["gpu"] else "cpu"
    data = output / "data"
    # Threads wait for each other at every small operation: where another program takes a core, they wait long.
    torch.set_num_threads(max(1, machine["hardware"]["cores"] // 2))

    steps.run("data", plan.pages, [data], lambda: _data(data, plan.pages))
    steps.run("tower", plan.tower, [output / "tower"], lambda: _tower(data, output / "tower", plan, device))
    for step, folder in TRAININGS.items():
        steps.run(
            step,
            [plan.training_identity(folder), device],
            [output / folder],
            lambda folder=folder: train(plan, folder, output, device),
            resumes=True,
        )
    answers = output / "answers"
    identity = [plan.batch_size, [dataclasses.asdict(arm) for arm in ARMS]]
    steps.run("evaluation", identity, [answers], lambda: _evaluate(output, plan, device), resumes=True)
    traces = output / "traces"
    steps.run("traces", [list(TRACED), device], [traces], lambda: _traces(output, device))
    results = {
        "arms": steps.result("evaluation"),
        **machine,
        "seconds": sum(steps.seconds.values()),
        "step_seconds": steps.seconds,
        "seed": plan.seed,
        "smoke": plan.smoke,
    }
    steps.run("report", results, [], lambda: finish(output, results))
    return json.loads((output / "results.json").read_text(encoding="utf-8"))


def _machine() -> dict[str, dict[str, Any]]:
    """What the run is on, for `results.json`: `hardware` and `versions`."""
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    own = {"cambrian-gaze": __version__, "python": platform.python_version()}
    return {
        "hardware": {"cpu": cpu_name(), "cores": cores(), "gpu": gpu, "system": platform.platform()},
        "versions": {**own, **versions(PACKAGES)},
    }


def _data(folder: Path, spec: PageSpec) -> dict[str, Any]:
    build_pages(folder, spec)
    return {"train_pages": spec.train_pages, "heldout_pages": spec.heldout_pages}


def _tower(data: Path, folder: Path, plan: QuickstartPlan, device: str) -> dict[str, float]:
    from cambrian_gaze.quickstart.pretrain_tower import pretrain_tower

    return {f"heldout_{name}": value for name, value in pretrain_tower(data, folder, plan.tower, device).items()}


def _evaluate(output: Path, plan: QuickstartPlan, device: str) -> dict[str, Any]:
    from cambrian_gaze.quickstart.evaluate import evaluate_arms

    return evaluate_arms(ARMS, _checkpoints(output), output / "data", output / "answers", device, plan.batch_size)


def _traces(output: Path, device: str) -> dict[str, Any]:
    from cambrian_gaze.quickstart.traces import write_traces

    return {"traces": len(write_traces(_checkpoints(output), output / "data", output / "traces", device))}


def _checkpoints(output: Path) -> dict[str, Path]:
    return {"dense": output / "dense", "gaze": output / "gaze"}


def finish(output: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Write `results.json`, `results.md`, `report.html`, `viewer.html` and `gaze.png`; how many of the lines hold."""
    from cambrian_gaze.files import write_text
    from cambrian_gaze.quickstart.arms import check_lines
    from cambrian_gaze.quickstart.markdown import results_table
    from cambrian_gaze.quickstart.report import build_report

    results = {**results, "checks": check_lines(results["arms"])}
    logs = {step: output / folder for step, folder in TRAININGS.items()}
    build_report(output, results, output / "data", output / "gaze", logs)
    write_text(output / "results.md", results_table(results["arms"]))
    write_text(output / "results.json", json.dumps(results, indent=1) + "\n")
    return {"checks_held": sum(results["checks"].values()), "checks": len(results["checks"])}


def print_summary(results: dict[str, Any], output: Path) -> None:
    """The final table, what holds and where to look."""
    heading = f"{'values':>7s} {'95 % CI':>15s} {'global':>7s} {'KV':>6s} {'kept':>6s} {'tokens/s':>9s} {'n':>6s}"
    print(f"\n{'arm':52s} {heading}")
    for arm in results["arms"].values():
        low, high = arm["ci95"]
        print(
            f"{arm['title']:52s} {arm['accuracy']:7.3f} {low:7.3f}-{high:.3f}  {arm['accuracy_global']:7.3f} "
            f"{arm['attended_visual_kv']:6g} {arm['retained_visual_kv']:6g} {arm['tokens_per_s']:9,.0f} {arm['n']:6,d}"
        )
    print("\nKV: visual entries attended per query, layer and head, context tokens included, counted in this run.")
    print("kept: visual tokens in memory while the answer is given, per layer and KV head, context tokens apart.")
    if results["smoke"]:
        print("This was a smoke run: it shows that everything runs, and claims nothing.")
    else:
        for line, holds in results["checks"].items():
            print(f"  {'yes' if holds else 'NO '}  {line}")
    print(f"\n{results['seconds'] / 60:.1f} minutes in all. Open {output / 'report.html'}")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cambrian-gaze quickstart", description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", help="default: runs/quickstart, or runs/quickstart-smoke with --smoke")
    parser.add_argument("--smoke", action="store_true", help="the same way in under two minutes; claims nothing")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pages, the tower and the training")
    parser.add_argument("--force", action="store_true", help="do every step anew")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
