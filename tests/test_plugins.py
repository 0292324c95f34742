"""`--plugin`: a file that the user named, and nothing else."""

import os
import sys
from pathlib import Path

import pytest

from cambrian_gaze.plugins import load_plugins


def test_a_file_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import os\nos.environ['PLUGIN_RUNS'] += '1'\n")
    monkeypatch.setenv("PLUGIN_RUNS", "")
    load_plugins([str(path), str(path)])
    monkeypatch.chdir(tmp_path)
    load_plugins(["mine.py"])
    assert os.environ["PLUGIN_RUNS"] == "1"


def refused(folder: Path) -> list[tuple[str, str]]:
    good = folder / "good.py"
    good.write_text("raise SystemError('was run')\n")
    (folder / "link.py").symlink_to(good)
    (folder / "folder.py").mkdir()
    (folder / "text.txt").write_text("x = 1\n")
    os.mkfifo(folder / "pipe.py")
    return [
        ("link.py", "is no regular file"),
        ("folder.py", "is no regular file"),
        ("pipe.py", "is no regular file"),
        ("text.txt", "does not end in .py"),
        ("none.py", "No such file"),
        ("json", "No such file"),
        ("https://example.org/x.py", "No such file"),
    ]


def test_what_is_no_file_of_python_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, message in refused(tmp_path):
        with pytest.raises(ValueError, match=f"--plugin {name}.*{message}"):
            load_plugins([name])


def test_a_file_that_fails_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("x = 1\nx / 0\n")
    before = set(sys.modules)
    with pytest.raises(ValueError, match=r"broken\.py, line 2: ZeroDivisionError"):
        load_plugins([str(path)])
    path.write_text("x = (\n")
    with pytest.raises(ValueError, match=r"broken\.py, line 1: SyntaxError"):
        load_plugins([str(path)])
    assert not any(name.startswith("cambrian_gaze_plugin") for name in set(sys.modules) - before)
