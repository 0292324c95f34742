"""What `--tasks` takes."""

from pathlib import Path

import pytest

from cambrian_gaze.evaluation.benchmarks import SUITES
from cambrian_gaze.evaluation.suites import read_tasks

FILES = sorted((Path(__file__).resolve().parents[2] / "eval" / "suites").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_suite_files(path: Path) -> None:
    names = tuple(one.name for one in read_tasks(str(path)))
    assert names == SUITES[path.stem] if path.stem in SUITES else names


def test_names_and_bad_files(tmp_path: Path) -> None:
    assert [one.name for one in read_tasks("mmvp, gqa")] == ["mmvp", "gqa"]
    (tmp_path / "x.yaml").write_text("task: [mme]\n")
    with pytest.raises(ValueError, match="must hold one key, tasks"):
        read_tasks(str(tmp_path / "x.yaml"))
