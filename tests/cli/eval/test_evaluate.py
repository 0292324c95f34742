import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cambrian_gaze.cli.eval.evaluate import gaze_options
from cambrian_gaze.cli.main import main
from tests.evaluation._data_root import write_data_root

ROOT = Path(__file__).resolve().parents[3]
ROW = "Cambrian-4B + Gaze 72+4"
TABLE = ROOT / "eval/tables/table1.yaml"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small local copies of MME and MMVP alone."""
    import datasets

    folder = tmp_path_factory.mktemp("benchmarks")
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    write_data_root(folder / "all")
    for name in ("lmms-lab/MME", "MMVP/MMVP"):
        shutil.copytree(folder / "all" / name, folder / "data" / name)
    return folder / "data"


def evaluate(action: str, *arguments: str | Path) -> int:
    return main(["eval", action, *map(str, arguments)])


def test_run_score_and_table(model_dir: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    source = ["--model", model_dir, "--data-root", root, "--device", "cpu", "--max_new_tokens", "3"]
    assert evaluate("run", *source, "--tasks", "mme,mmvp", "--gaze", "top_k=2", "--output", output) == 0
    said = capsys.readouterr().out
    assert "mme.cambrian" in said and "INCOMPLETE: 8 of 2374 rows in the data" in said
    assert set(json.loads((output / "scores.json").read_text())) == {"mme.cambrian", "mmvp.cambrian"}
    before = (output / "answers" / "mme.cambrian.jsonl").read_bytes()
    (output / "scores.json").unlink()
    assert evaluate("score", output) == 0
    assert (output / "answers" / "mme.cambrian.jsonl").read_bytes() == before and (output / "scores.json").is_file()
    capsys.readouterr()
    assert evaluate("table", TABLE, "--row", ROW, "--output", output) == 0
    assert "| MMVP |" in capsys.readouterr().out and (output / "table.html").is_file()


def test_run_under_a_policy(model_dir: Path, root: Path, tmp_path: Path) -> None:
    source = ["--model", model_dir, "--data_root", root, "--max_new_tokens", "3"]
    output = tmp_path / "run"
    assert evaluate("run", *source, "--tasks", "mmvp", "--policy", "infinipot_v", "budget=8", "--output", output) == 0
    (scores,) = json.loads((output / "scores.json").read_text()).values()
    assert scores["attended"]["visual"] == 8
    task = json.loads(next((output / "tasks").glob("*.json")).read_text())
    assert task["policy"]["name"] == "infinipot_v" and task["policy"]["budget"] == 8


def test_table_runs_what_can_be_read_and_fails_for_the_rest(
    model_dir: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", model_dir, "--data_root", root, "--max_new_tokens", 3, "--output", tmp_path / "run"]
    assert evaluate("table", TABLE, "--row", ROW, "--protocol", "official", *arguments) == 1
    said = capsys.readouterr()
    assert "| GQA | – |" in said.out
    assert "FAILED: ValueError: there is no local copy of lmms-lab-encoder/GQA" in said.out
    assert "gqa.official failed and is left out" in said.err
    tasks = json.loads((tmp_path / "run" / "tasks" / "mme.official.json").read_text())
    assert tasks["gaze"]["image"]["top_k"] == 2 and tasks["error"] is None


@pytest.mark.slow
def test_the_whole_of_table_1_in_one_command(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path / "cache"
    write_data_root(tmp_path / "data")
    arguments = ["--model", model_dir, "--data_root", tmp_path / "data", "--max_new_tokens", 3]
    assert evaluate("table", TABLE, "--row", ROW, *arguments, "--output", tmp_path / "run") == 0
    said = capsys.readouterr().out
    columns = yaml.safe_load(TABLE.read_text())["columns"]
    tasks = [json.loads(path.read_text()) for path in (tmp_path / "run" / "tasks").glob("*.json")]
    assert len(columns) == 14 and all(task["error"] is None and task["gaze"]["image"]["top_k"] == 2 for task in tasks)
    rows = [line for line in said.splitlines() if "INCOMPLETE" in line and "columns left out" not in line]
    assert len(rows) == 28 and all("| 8+" in row for row in rows), "two protocols, KV as counted"
    answers = list((tmp_path / "run" / "answers").glob("*.cambrian.jsonl"))
    assert len(answers) == 14 and len(tasks) == 28 and all(path.stat().st_size for path in answers)
    assert {path.suffix for path in (tmp_path / "run").glob("table.*")} == {".md", ".csv", ".json", ".html"}


def test_doctor(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("doctor", "--tasks", "mmvp", "--data_root", root) == 1
    assert "6 rows, 300 expected" in capsys.readouterr().out


def test_mistakes_are_named(model_dir: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--model", model_dir, "--data_root", root, "--output", tmp_path / "run"]
    assert evaluate("run", *run, "--tasks", "mmme") == 1
    assert "did you mean 'mme'" in capsys.readouterr().err
    assert evaluate("run", *run, "--tasks", "mme", "--gaze", "top_k") == 1
    assert "KEY=VALUE" in capsys.readouterr().err
    assert evaluate("run", *run, "--tasks", "mme", "--gaze", "topk=2") == 1
    assert "did you mean 'top_k'" in capsys.readouterr().err
    assert evaluate("run", *run, "--tasks", "mme", "--policy", "recent", "buget=8") == 1
    assert "did you mean 'budget'" in capsys.readouterr().err
    assert evaluate("table", TABLE, "--row", "none", "--output", tmp_path) == 1
    assert "the rows are" in capsys.readouterr().err
    assert evaluate("score", tmp_path / "nothing") == 1
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_answer_like_one(model_dir: Path, root: Path, tmp_path: Path) -> None:
    source = [
        "--model",
        model_dir,
        "--data_root",
        root,
        "--device",
        "cpu",
        "--max_new_tokens",
        "3",
        "--tasks",
        "mme,mmvp",
    ]
    assert evaluate("run", *source, "--output", tmp_path / "one") == 0
    command = [sys.executable, "-m", "cambrian_gaze.cli.main", "eval", "run", *map(str, source), "--num_processes", "2"]
    result = subprocess.run(
        [*command, "--output", str(tmp_path / "two")], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("mme.cambrian") == 1
    for name in ("mme.cambrian.jsonl", "mmvp.cambrian.jsonl"):
        one, two = (tmp_path / run / "answers" / name for run in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert len(list((tmp_path / "two" / "journal").glob("*.jsonl"))) == 2

    broken = shutil.copytree(root / "MMVP", tmp_path / "data" / "MMVP") / "MMVP"
    (broken / "MMVP Images" / "2.jpg").write_bytes(b"junk")
    command[command.index(str(root))] = str(tmp_path / "data")
    result = subprocess.run(
        [*command, "--output", str(tmp_path / "three")], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert result.returncode != 0 and "FAILED" in result.stdout and "2.jpg" in result.stderr


def test_gaze_options() -> None:
    assert gaze_options(["top_k=2", "context_visible=false"]) == {"top_k": 2, "context_visible": False}
