"""`bench data`: its rows at sizes that take seconds, and the lines that an index has to meet."""

import argparse
import json
import re

import pytest

from cambrian_gaze.bench import data as bench
from cambrian_gaze.cli.main import main


def measured(*arguments: str) -> list[dict]:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.run(parser.parse_args(arguments))


def test_rows_and_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "FRAMES", 20)
    monkeypatch.setattr(bench, "ACCESSES", 50)
    page = tmp_path / "page.md"
    page.write_text("<!-- measured -->\n<!-- /measured -->\n")
    options = ["--rows", "300", "--array_rows", "200", "--seconds", "0.01", "--folder", str(tmp_path)]
    assert main(["bench", "data", *options, "--json", str(tmp_path / "rows.json"), "--page", str(page)]) == 0
    (run,) = json.loads((tmp_path / "rows.json").read_text())["runs"]
    rows = run["rows"]
    arms = [row["arm"] for row in rows]
    assert arms[:4] == ["build the index", "read a row at random"] * 2
    assert sum(arm.startswith("decode a video") for arm in arms) == 4 and arms[-1] == "pack samples"
    assert all(row["median_us"] > 0 or "not installed" in row["note"] for row in rows)
    assert "lines: 300 rows" in rows[0]["case"] and "array: 200 rows" in rows[2]["case"]
    assert rows[-1]["packed_share"] <= 0.03 < 0.5 < rows[-1]["padded_share"], "packing leaves at most 3 % of padding"
    assert rows[-1]["rate"] == f"{rows[-1]['packed_share']:.2%} padding"
    read = rows[1]
    assert (read["kind"], read["rows"]) == ("lines", 300)
    assert 0 < read["open_us"] and read["slowest_us"] >= read["median_us"]
    assert "| build the index |" in (tmp_path / "page" / "data.md").read_text()
    assert f"Packing leaves {rows[-1]['packed_share']:.2%}" in page.read_text()
    assert "records/s" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"page.md", "page", "rows.json"}, "its files are gone"


def test_nonsense_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "data", "--rows", "0"])
    assert "--rows and --array_rows must be positive, got [0]" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_does_not_grow_with_rows_and_access_is_fast(tmp_path):
    counts = (20_000, 2_000_000)
    rows = [row for count in counts for row in bench._index_rows(tmp_path, count, "lines")]
    small, large = (row for row in rows if row["arm"] == "read a row at random")
    assert max(small["median_us"], large["median_us"]) < 1000
    if large["resident_bytes"] is not None:
        assert large["resident_bytes"] < 300 * 2**20
        assert large["resident_bytes"] - small["resident_bytes"] < 8 * 2**20
    rate = int(re.sub(r"\D", "", rows[2]["rate"]))
    assert rows[2]["arm"] == "build the index" and rate >= 100
