"""Results as JSON: written whole, read back, one run per section and device."""

import json
from datetime import date
from pathlib import Path

import pytest

from cambrian_gaze import measure
from cambrian_gaze.bench import results
from cambrian_gaze.bench.results import Run

MACHINE = {"cpu": "a processor, 2 cores", "torch": "2.13"}


def run(section: str = "bench decode", device: str = "cpu", us: float | None = 1.0, **more) -> Run:
    row = measure.row(arm="dense", median_us=us, device=device, **more)
    return Run(section, device, "cambrian-gaze bench decode", "2026-01-01", MACHINE, [row])


def test_what_is_written_is_read_back_and_has_a_line_per_row(tmp_path: Path) -> None:
    runs = [run(), run("bench decode layers", note="24 × ‘layers’\n")]
    results.write(tmp_path / "new" / "rows.json", "decode", runs)
    text = (tmp_path / "new" / "rows.json").read_text()
    assert results.read(tmp_path / "new" / "rows.json") == ("decode", runs)
    assert sum(line.startswith('    {"arm"') for line in text.splitlines()) == 2
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["rows.json"]
    assert tuple(json.loads(text)["runs"][0]["rows"][0]) == measure.ROW_KEYS


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"bench": "decode", "runs": [{}]}', '{"bench": "decode", "runs": [{"sections": 1}]}']
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(ValueError, match="rows.json holds no results"):
        results.read(tmp_path / "rows.json")


def test_a_new_run_takes_the_place_of_its_kind_and_device_alone() -> None:
    old = [run(us=1.0), run("bench decode layers", us=2.0), run(device="cuda", us=3.0)]
    new = [run("bench decode layers", us=9.0), run("bench decode batches", us=8.0)]
    times = [(r.section, r.device, r.rows[0]["median_us"]) for r in results.merged(old, new)]
    assert times == [
        ("bench decode", "cpu", 1.0),
        ("bench decode layers", "cpu", 9.0),
        ("bench decode", "cuda", 3.0),
        ("bench decode batches", "cpu", 8.0),
    ]


def test_rows_become_runs_by_section_and_device() -> None:
    rows = [
        measure.row(arm="dense", device="cpu", median_us=1.0),
        measure.row(arm="dense", device="cpu", median_us=2.0, section="bench x layers"),
        measure.row(arm="dense", device="cuda:0", note="no GPU here"),
    ]
    first, second, third = results.as_runs(rows, "bench x", ["bench", "x", "--folder", "a b"])
    assert [(r.section, r.device) for r in (first, second, third)] == [
        ("bench x", "cpu"),
        ("bench x layers", "cpu"),
        ("bench x", "cuda"),
    ]
    assert first.command == "cambrian-gaze bench x --folder 'a b'" and first.date == date.today().isoformat()
    assert first.machine["cpu"] and not third.machine, "what was not measured ran nowhere"
    assert "section" not in second.rows[0] and second.rows[0]["median_us"] == 2.0


def test_rows_that_tell_something_and_rows_that_do_not() -> None:
    rows = [
        measure.row(arm="a", median_us=1.0),
        measure.row(arm="b", peak_bytes=5),
        measure.row(arm="c", note="out of memory"),
        measure.row(arm="d", note="no time left"),
        measure.row(arm="e"),
    ]
    rows.append(measure.row(arm="f", max_error=0.5, note="differs from masked"))
    rows.append(measure.row(arm="g", note="NotImplementedError: no such kernel"))
    one = Run("bench x", "cpu", "", "", {}, rows)
    assert "".join(row["arm"] for row in one.told) == "abcf" and "".join(row["arm"] for row in one.open) == "deg"
    choice = Run("bench attention choice", "cpu", "", "", {}, rows)
    assert "".join(row["arm"] for row in choice.told) == "abcfg", "why a backend was dropped is a result"
    assert "".join(row["arm"] for row in choice.open) == "de"


@pytest.mark.parametrize(
    ("command", "heads"),
    [
        ("cambrian-gaze bench decode --tokens 576 --seconds 1", 32),
        ("cambrian-gaze bench decode --kv-heads 4", None),
        ("cambrian-gaze bench decode --head=8", None),
    ],
)
def test_rows_that_name_no_sizes_have_the_defaults_where_the_command_gives_none(command: str, heads: int) -> None:
    row = measure.row(arm="dense", median_us=1.0)
    assert Run("bench decode", "cpu", command, "", {}, [row]).sized[0].get("heads") == heads
    assert "heads" not in Run("bench prefill", "cpu", command, "", {}, [row]).sized[0]
    assert Run("bench decode", "cpu", command, "", {}, [{**row, "heads": 4}]).sized[0]["heads"] == 4
