"""The doctor finds what is wrong with a copy, by name."""

import shutil
from pathlib import Path

import pytest

from cambrian_gaze.evaluation.benchmarks import BENCHMARKS
from cambrian_gaze.evaluation.benchmarks.rows import BenchmarkRows
from cambrian_gaze.evaluation.doctor import check_counts, check_media, check_schema, examine
from tests.evaluation._fixtures import png
from tests.evaluation._runs import expect_these_rows


@pytest.mark.parametrize("name", BENCHMARKS)
def test_whole_copies_are_sound(name: str, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expect_these_rows(monkeypatch, data_root, [name])
    problems, rows, revision = examine(BENCHMARKS[name], str(data_root))
    assert (problems, revision) == ([], "local") and rows >= 3


def test_counts(data_root: Path) -> None:
    rows = BenchmarkRows(BENCHMARKS["mme"], data_root)
    assert check_counts(BENCHMARKS["mme"], rows) == ["8 rows, 2374 expected", "6 samples, 2114 expected"]


def damaged(tmp_path: Path, change) -> BenchmarkRows:
    """The MME copy after `change` (rows → rows)."""
    import datasets

    from tests.evaluation._fixtures import TABLES

    folder = tmp_path / "lmms-lab" / "MME" / "data"
    folder.mkdir(parents=True)
    rows = change([dict(row) for row in TABLES["lmms-lab/MME", None, "test"]])
    datasets.Dataset.from_list(rows).to_parquet(folder / "test-00000-of-00001.parquet")
    return BenchmarkRows(BENCHMARKS["mme"], tmp_path)


def test_schema(tmp_path: Path) -> None:
    def drop(rows):
        return [{k: v for k, v in row.items() if k != "category"} for row in rows]

    assert check_schema(BENCHMARKS["mme"], damaged(tmp_path, drop))[0].startswith("fields missing: category")


def test_kinds(tmp_path: Path) -> None:
    def blank(rows):
        for row in rows:
            row["answer"] = None
        return rows

    problems = check_schema(BENCHMARKS["mme"], damaged(tmp_path, blank))
    assert problems == [f"row {n}: answer is NoneType, not text" for n in range(3)] + ["and 5 more like this"]


def test_groups_and_ids(tmp_path: Path) -> None:
    problems = check_counts(BENCHMARKS["mme"], damaged(tmp_path, lambda rows: [*rows[1:], rows[2]]))
    assert any("group 'existence existence/1.png' has 1 rows, 2 expected" in text for text in problems)
    assert any("occurs more than once" in text for text in problems)


def test_media(tmp_path: Path) -> None:
    def cut(rows):
        rows[0]["image"] = {"bytes": png()["bytes"][:40], "path": None}
        return rows

    (problem,) = check_media(BENCHMARKS["mme"], damaged(tmp_path, cut))
    assert problem.startswith("row 0: an image of 40 bytes cannot be decoded")


def test_missing_files(data_root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(data_root / "sy1998", tmp_path / "sy1998")
    shutil.rmtree(copy / "MLVU_dev" / "v1.mp4")
    problems, _, _ = examine(BENCHMARKS["mlvu"], str(tmp_path))
    assert len(problems) == 3 and "v1.mp4 is missing" in problems[2]
    (problem,), _, _ = examine(BENCHMARKS["mme"], str(tmp_path))
    assert "no local copy of lmms-lab-encoder/MME (lmms-lab/MME will do)" in problem
