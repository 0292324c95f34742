"""`cambrian-gaze data`: the table of subcommands, and `data index`."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cambrian_gaze.cli import data
from cambrian_gaze.cli.main import main

ROW = json.dumps({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}) + "\n"


def test_every_subcommand_is_there_and_named_in_the_overview(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["data", "--help"])
    overview = capsys.readouterr().out
    assert exit_.value.code == 0
    for name, (module, summary) in data.SUBCOMMANDS.items():
        assert name in overview and summary.split()[0] in overview
        assert callable(importlib.import_module(module).main)
    with pytest.raises(SystemExit) as exit_:
        main(["data", "indx"])
    assert exit_.value.code == 2 and "invalid choice: 'indx'" in capsys.readouterr().err


def test_help_does_not_wait_for_torch():
    for name in data.SUBCOMMANDS:
        program = (
            "import sys; from cambrian_gaze.cli.main import main\n"
            f"try: main(['data', '{name}', '--help'])\nexcept SystemExit: pass\n"
            "assert 'torch' not in sys.modules and 'datasets' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)


def test_index_says_what_it_did(tmp_path: Path, capsys):
    for name, count in (("a", 3), ("b", 5)):
        (tmp_path / f"{name}.jsonl").write_text(ROW * count)
    (tmp_path / "r.yaml").write_text("datasets: [{path: a.jsonl}, {path: b.jsonl, sampling_strategy: 'first:1'}]")
    assert main(["data", "index", str(tmp_path / "r.yaml"), str(tmp_path / "a.jsonl")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path / 'a.jsonl'}: 3 rows; indexed ") and "MB/s" in first
    assert first.endswith(str(tmp_path / ".a.jsonl.index")) and ": 5 rows; indexed" in second
    assert main(["data", "index", str(tmp_path / "a.jsonl")]) == 0
    assert "3 rows; the index fits" in capsys.readouterr().out
    assert main(["data", "index", "--rebuild", str(tmp_path / "a.jsonl")]) == 0
    assert "3 rows; indexed" in capsys.readouterr().out


def test_index_names_all_that_is_missing_at_once(tmp_path: Path, capsys):
    (tmp_path / "r.yaml").write_text("datasets: [{path: a.jsonl}, {path: b.jsonl}]")
    assert main(["data", "index", str(tmp_path / "r.yaml")]) == 1
    error = capsys.readouterr().err
    assert f"r.yaml, entry 1: {tmp_path / 'a.jsonl'}" in error and f"entry 2: {tmp_path / 'b.jsonl'}" in error
    (tmp_path / "a.json").write_text("[{")
    assert main(["data", "index", str(tmp_path / "a.json")]) == 1
    assert "a.json is not a valid JSON array: it ends within element 1" in capsys.readouterr().err


def test_index_leaves_tables_alone(tmp_path: Path, capsys):
    (tmp_path / "t.parquet").write_bytes(b"")
    assert main(["data", "index", str(tmp_path / "t.parquet")]) == 0
    assert "t.parquet: a table, which has an index of its own" in capsys.readouterr().out
