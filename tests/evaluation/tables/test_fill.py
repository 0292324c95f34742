"""A row filled with what was measured."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from cambrian_gaze.evaluation.results import journal_path
from cambrian_gaze.evaluation.tables.fill import fill_row, kv_text
from cambrian_gaze.evaluation.tables.report import write_reports
from cambrian_gaze.evaluation.tables.table import read_table
from tests.evaluation._runs import evaluate, expect_these_rows

TABLES = Path(__file__).resolve().parents[3] / "eval" / "tables"
ROW = "Cambrian-4B + Gaze 72+4"


@pytest.fixture(scope="module")
def table():
    return read_table(TABLES / "table1.yaml")


def test_incomplete_columns_are_left_out_of_the_average(table, whole_run: Path) -> None:
    filled = fill_row(table, table.row(ROW), whole_run)
    assert len(filled.cells) == 2 * (len(table.columns) + 2)
    for cell in filled.cells:
        assert cell.status.startswith("INCOMPLETE")
        assert (cell.measured is None) == cell.average == (cell.column in ("avg", "avg_published"))


def test_a_whole_row(table, whole_run: Path, data_root: Path, tmp_path: Path, monkeypatch) -> None:
    expect_these_rows(monkeypatch, data_root, ["image"])
    output = shutil.copytree(whole_run, tmp_path / "run")
    _answer_like_the_gold(output, ["mme", "gqa"])
    filled = fill_row(table, table.row(ROW), output)
    cells = {cell.column: cell for cell in filled.cells if cell.protocol == "cambrian"}
    assert all(cell.status == "complete" for cell in cells.values())
    assert cells["mme_p"].measured == 400 and cells["gqa"].measured == 100
    others = sum(cells[column].measured for column in table.columns[1:]) / 13
    assert cells["avg"].measured == pytest.approx(0.5 * 400 / 20 + 0.5 * others)
    assert cells["avg"].paper == 68.1 and cells["avg"].delta == pytest.approx(cells["avg"].measured - 68.1)
    assert cells["avg_published"].measured == pytest.approx((20 + 13 * others) / 14)
    assert cells["avg_published"].paper == 60.4
    low, high = cells["avg"].ci95
    assert low <= cells["avg"].measured <= high
    assert kv_text(cells["gqa"].attended) == "8+4 of 64" and "KV size is 72+4" in filled.notes[0]

    text = write_reports(filled, output)
    assert "| GQA | 100.0 | 100.0 – 100.0 | 57.8 | +42.2 | 4 | 8+4 of 64 | – | local | complete |" in text
    assert "| Qwen2.5-VL-3B 256 | 256 | 71.0 | 63.3 |" in text
    assert "| Avg, rule of arXiv v1 |" in text and "| Avg, published rule |" in text
    lines = list(csv.DictReader((output / "table.csv").open()))
    assert [line["column"] for line in lines[:16]] == [*table.columns, "avg", "avg_published"]
    assert lines[7]["kv_visual"] == "8.0"
    values = json.loads((output / "table.json").read_text())
    assert values["cells"][0]["measured"] == 400 and values["row"]["kv_size"] == "72+4"
    page = (output / "table.html").read_text()
    assert "<svg" in page and "Qwen2.5-VL-3B" in page and "http" not in page.replace("http-equiv", "")


def _answer_like_the_gold(output: Path, names: list[str]) -> None:
    """Replace the answers of some benchmarks by the gold ones."""
    gold = {}
    for name in names:
        for path in (output / "tasks").glob(f"{name}.*.json"):
            gold |= {s["key"]: s["target"]["answer"] for s in json.loads(path.read_text())["samples"]}
    journal = journal_path(output, 0)
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    lines = [json.dumps({**entry, "answer": gold.get(entry["key"], entry["answer"])}) for entry in entries]
    journal.write_text("".join(line + "\n" for line in lines))


def test_two_runs_are_compared_in_pairs(tiny, table, whole_run: Path, data_root: Path, tmp_path: Path) -> None:
    better = shutil.copytree(whole_run, tmp_path / "better")
    _answer_like_the_gold(better, ["gqa", "mmvp"])
    filled = fill_row(table, table.row(ROW), better, against=whole_run)
    cells = {cell.column: cell for cell in filled.cells if cell.protocol == "cambrian"}
    assert (cells["gqa"].difference, cells["gqa"].difference_ci95) == (100.0, (100.0, 100.0))
    assert (cells["mme_p"].difference, cells["mme_p"].difference_ci95) == (0.0, (0.0, 0.0))
    assert "| − other | 95 % CI of it |" in write_reports(filled, better)

    evaluate(tiny, data_root, tmp_path / "limited", ["gqa"], gaze={"top_k": 2}, limit=1)
    with pytest.raises(ValueError, match="do not hold the same scoring groups"):
        fill_row(table, table.row(ROW), better, against=tmp_path / "limited")


def test_a_table_is_of_one_model(tiny, table, data_root: Path, tmp_path: Path) -> None:
    evaluate(tiny, data_root, tmp_path, ["mmvp"], gaze={"top_k": 2})
    evaluate(tiny, data_root, tmp_path, ["gqa"], gaze={"top_k": 1})
    with pytest.raises(ValueError, match="2 models or gaze settings"):
        fill_row(table, table.row(ROW), tmp_path)


def test_a_right_run_is_not_called_another_grid(whole_run: Path) -> None:
    """Videos of two frames hold less than the budget allows; frames of 64 tokens are not the row's 144."""
    video = read_table(TABLES / "video.yaml")
    row = dataclasses.replace(video.rows[3], kv_size="8", tokens_per_frame=64, model_args={"top_k": 2})
    filled = fill_row(video, row, whole_run)
    assert {cell.title for cell in filled.cells if cell.average} == {"Avg, published rule"}
    assert filled.notes == ["The row's KV size is published as 4K; 8 is our reading of it."]
    other = fill_row(video, dataclasses.replace(row, kv_size="4032"), whole_run)
    assert "KV size is 4032, but 8+8 of 128 entries were counted" in other.notes[1]
    said = " ".join(fill_row(video, video.rows[3], whole_run).notes)
    assert "mlvu.cambrian: a frame has 64 visual tokens, 144 in the row." in said
    assert "mlvu.official: answered with video_max_frames=64, the row has 128." in said


def test_a_row_without_a_checkpoint_of_its_own_is_said(whole_run: Path) -> None:
    ablations = read_table(TABLES / "ablations.yaml")
    notes = fill_row(ablations, ablations.row("Context tokens 16"), whole_run).notes
    assert notes[0] == "This row is for another checkpoint than the options make: trained with num_context_tokens: 16."
    assert "KV size is 72+16, but 8+4 of 64" in notes[1]
