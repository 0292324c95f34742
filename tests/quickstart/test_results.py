"""From two untrained models to `results.json` and the report; and, slowly, the whole smoke run."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from cambrian_gaze.quickstart.arms import ARMS, CHOOSING_ONCE, TRACED
from cambrian_gaze.quickstart.digits import PageSpec, build_pages
from cambrian_gaze.quickstart.run import TRAININGS, finish, main, print_summary
from cambrian_gaze.viz.trace import Trace

pytest.importorskip("sklearn")
ATTENDED = {
    "dense": 64, "gaze_k2": 2 * 4 + 4, "gaze_k1": 4 + 4, "gaze_k4": 4 * 4 + 4, "gaze_k16": 64 + 4,
    "dense_routed_k2": 2 * 4, "static_gaze_k2": 2 * 4, "evict_question": 8, "infinipot_v": 8, "hermes": 8,
    "evict_random": 8, "gaze_k2_no_context": 2 * 4, "gaze_k2_blind": 2 * 4 + 4,
}  # fmt: skip


def check_results(results, pages):
    """The schema of `results.json`, and what holds for any weights."""
    assert results.keys() >= {"arms", "hardware", "versions", "seconds", "seed", "smoke", "checks"}
    assert list(results["arms"]) == [arm.name for arm in ARMS] == list(ATTENDED)
    for name, arm in results["arms"].items():
        for accuracy, interval in (("accuracy", "ci95"), ("accuracy_global", "ci95_global")):
            low, high = arm[interval]
            assert 0 <= low <= arm[accuracy] <= high <= 1
        assert arm["attended_visual_kv"] == arm["cost_model_kv"] == ATTENDED[name] and arm["visual_tokens"] == 64
        assert arm["n"] == 16 * pages and arm["n_global"] == 10 * pages
        assert arm["tokens_per_s"] > 0
        assert ("behind_dense" in arm) == (name != "dense")
        assert arm["retained_visual_kv"] == (8 if name in CHOOSING_ONCE and name != "static_gaze_k2" else 64)
        if name not in ("dense", "gaze_k16", *CHOOSING_ONCE):
            recall = arm["routing_recall"]
            assert recall["chance"] == {"gaze_k1": 1, "gaze_k4": 4}.get(name, 2) / 16
            assert all(0 <= value <= 1 for layer in recall["table"] for value in layer)
    assert all(isinstance(value, bool) for value in results["checks"].values())
    assert math.isfinite(results["seconds"]) and results["versions"]["torch"]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """A run with everything but training and evaluation done."""
    import torch

    from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor

    output = tmp_path_factory.mktemp("run")
    build_pages(output / "data", PageSpec(train_pages=1, heldout_pages=3, variants=1), progress=False)
    for name, gaze in (("dense", {"num_context_tokens": 0}), ("gaze", {"num_context_tokens": 4})):
        gaze = {"image": {"region_size": [1, 2, 2], "top_k": 2}, **gaze}
        torch.manual_seed(0)
        CambrianGazeForConditionalGeneration.from_preset("tiny", gaze=gaze).save_pretrained(output / name)
        CambrianGazeProcessor.from_preset("tiny", gaze=gaze).save_pretrained(output / name)
    for folder in TRAININGS.values():
        (output / folder).mkdir(exist_ok=True)
        lines = [{"event": "start", "attempt": 1, "from_step": 0, "time": 0.0}]
        lines += [{"event": "log", "attempt": 1, "step": s, "loss": 2.0 / s, "k": 16.0 / s} for s in (1, 2, 4)]
        (output / folder / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return output


def first_read(output):
    """The held-out row that the viewer shows."""
    rows = map(json.loads, (output / "data" / "heldout.jsonl").read_text().splitlines())
    return next(row for row in rows if row["family"] == "read")


def answer_of(output, arm):
    """To that row, from the journal."""
    rows = map(json.loads, (output / "answers" / f"{arm}.jsonl").read_text().splitlines())
    return next(row["answer"] for row in rows if row["id"] == first_read(output)["id"])


def test_results_and_report(output, capsys):
    from cambrian_gaze.quickstart.evaluate import evaluate_arms
    from cambrian_gaze.quickstart.traces import write_traces

    checkpoints = {"dense": output / "dense", "gaze": output / "gaze"}
    arms = evaluate_arms(ARMS, checkpoints, output / "data", output / "answers")
    traces = [Trace.load(path) for path in write_traces(checkpoints, output / "data", output / "traces")]
    machine = {"hardware": {"cpu": "some", "cores": 2, "gpu": None}, "versions": {"torch": "2"}}
    results = {"arms": arms, **machine, "seconds": 61.0, "step_seconds": {"data": 61.0}, "seed": 0, "smoke": False}
    finish(output, results)
    written = json.loads((output / "results.json").read_text())
    check_results(written, pages=3)
    table = (output / "results.md").read_text().splitlines()
    assert len(table) == 2 + len(ARMS) and all(arm.title in line for arm, line in zip(ARMS, table[2:], strict=True))
    page = (output / "report.html").read_text()
    for arm in ARMS:
        assert arm.title in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert page.count('href="viewer.html"') == 2
    dense, gaze, evicted = traces
    assert dense.answer == answer_of(output, "dense") and gaze.answer == answer_of(output, "gaze_k2")
    assert not dense.chose.any() and gaze.regions.shape[-1] == 2 and gaze.chose.all()
    assert evicted.kept.sum(-1).tolist() == [8] * evicted.kept.shape[0] and evicted.model["policy"]["name"] == "snapkv"
    asked = " ".join(f"{cell} _" for cell, _ in first_read(output)["target"])
    assert {trace.prompt for trace in traces} == {f"Read {asked}"}
    viewer = (output / "viewer.html").read_text()
    for arm in (arm for arm in ARMS if arm.name in TRACED):
        assert arm.title in viewer
    assert str(output) not in viewer
    with Image.open(output / "gaze.png") as picture:
        assert picture.width > 300
    print_summary(written, output)
    printed = capsys.readouterr().out
    assert "gaze, K=2 of 16" in printed and "NO " in printed and "report.html" in printed


def test_help_and_unknown_flags(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0 and "--smoke" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["--smokes"])
    assert stopped.value.code == 2


@pytest.mark.slow
def test_smoke_run(tmp_path):
    pytest.importorskip("deepspeed")
    output = tmp_path / "smoke"
    command = [sys.executable, "-m", "cambrian_gaze.cli.main", "quickstart", "--smoke", "--output_dir", str(output)]
    root = Path(__file__).resolve().parents[2]
    start = time.monotonic()
    first = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    check_results(json.loads((output / "results.json").read_text()), pages=16)
    left = ("report.html", "viewer.html", "gaze.png", "traces/dense.safetensors", "tower/config.json")
    for name in (*left, "stage1/mm_projector.safetensors", "gaze/config.json"):
        assert (output / name).is_file(), name
    took = time.monotonic() - start
    again = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout.count("already done") == 8
    assert time.monotonic() - start - took < took / 2
