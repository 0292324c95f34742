"""`cambrian-gaze eval routing`, on a quickstart's pages and on what it wrote itself."""

import json
from pathlib import Path

import pytest

from cambrian_gaze.cli.main import main
from cambrian_gaze.quickstart.digits import PageSpec, build_pages

pytest.importorskip("sklearn")
pytest.importorskip("pycocotools")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "data"
    build_pages(folder, PageSpec(train_pages=1, heldout_pages=2, read_cells=4), progress=False)
    return folder


def test_the_command(data: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", model_dir, "--quickstart", data, "--output", tmp_path, "--device", "cpu"]
    arguments += ["--gaze", "top_k=2"]
    assert main(["eval", "routing", *map(str, arguments)]) == 0
    assert "16 tokens of 2 captions" in capsys.readouterr().out
    figures = json.loads((tmp_path / "routing.json").read_text())
    assert len(figures["layers"]) == 3 and set(figures["kinds"]) == {"address", "value"}
    assert all(layer["random"]["expected"] == pytest.approx(2 / 16) for layer in figures["layers"])
    assert figures["counterfactual"]["tokens"] == 16

    # What was written is data for the same command.
    (tmp_path / "captions.jsonl").rename(data / "images" / "routing.jsonl")
    arguments[2:4] = ["--data", data / "images"]
    arguments[5] = tmp_path / "again"
    assert main(["eval", "routing", *map(str, arguments), "--no_counterfactual"]) == 0
    again = json.loads((tmp_path / "again" / "routing.json").read_text())
    assert again["best_head"] == figures["best_head"] and again["counterfactual"] is None


def test_a_folder_that_is_none_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], model_dir: Path) -> None:
    arguments = ["--model", model_dir, "--quickstart", tmp_path, "--output", tmp_path / "out"]
    assert main(["eval", "routing", *map(str, arguments)]) == 1
    assert "heldout.jsonl is missing" in capsys.readouterr().err
