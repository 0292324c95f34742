"""Runs of lmms-eval in a process of its own, and a task that is not ours."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cambrian_gaze.training.launch.ranks import launch_command
from tests.evaluation._fixtures import png
from tests.evaluation._runs import LENGTH

NEEDS_LMMS = pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None,
    reason="lmms-eval is not installed: pip install 'cambrian-gaze[lmms]'",
)
ROOT = Path(__file__).resolve().parents[3]
TASKS = ROOT / "cambrian_gaze" / "assets" / "lmms"


def lmms_eval(
    model: Path, data_root: Path, output: Path, tasks: str, *options: str, processes: int = 1
) -> tuple[str, dict[str, Any] | None]:
    """What it printed, and the results that it wrote; None where it wrote none."""
    command = [
        *([sys.executable, "-m", "lmms_eval"] if processes == 1 else launch_command(processes, [], "lmms_eval")),
        "--model", "cambrian_gaze", "--model_args", f"pretrained={model},top_k=2,journal={output / 'journal'}",
        "--include_path", str(TASKS), "--tasks", tasks, "--batch_size", "8", "--device", "cpu",
        "--gen_kwargs", f"max_new_tokens={LENGTH}", "--output_path", str(output), "--log_samples", *options,
    ]  # fmt: skip
    return run(command, output, data_root).stdout, results(output)


def results(output: Path) -> dict[str, Any] | None:
    """What lmms-eval wrote last below a folder."""
    written = sorted(output.rglob("*_results.json"))
    return json.loads(written[-1].read_text()) if written else None


def run(command: list[str], output: Path, data_root: Path) -> subprocess.CompletedProcess:
    """Offline, on one thread, with caches below `output`; both streams as one text."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(output / "hf"), "PYTHONPATH": str(ROOT)}
    environment["CAMBRIAN_GAZE_DATA_ROOT"] = str(data_root)
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=output, timeout=300
    )


def write_foreign_task(folder: Path) -> Path:
    """A folder with the task `local_counting`, of the kind that lmms-eval has: a picture, a question, an answer."""
    import datasets

    folder.mkdir()
    rows = [{"image": png(), "question": f"How many, case {n}?", "answer": str(n)} for n in range(4)]
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    table.to_parquet(folder / "rows.parquet")
    lines = [
        "task: local_counting", "dataset_path: parquet",
        f"dataset_kwargs: {{data_files: {{test: {folder}/rows.parquet}}}}",
        "test_split: test", "output_type: generate_until", "doc_to_visual: image", "doc_to_text: question",
        "doc_to_target: answer", "generation_kwargs: {max_new_tokens: 4, temperature: 0, do_sample: false}",
        "metric_list:", "- {metric: exact_match, aggregation: mean, higher_is_better: true}",
    ]  # fmt: skip
    (folder / "local_counting.yaml").write_text("\n".join(lines) + "\n")
    return folder
