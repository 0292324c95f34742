"""Tables: the paper's figures, rows and averages."""

from pathlib import Path

import pytest
import yaml

from cambrian_gaze.evaluation.benchmarks import SUITES
from cambrian_gaze.evaluation.tables.table import average, read_table

TABLES = Path(__file__).resolve().parents[3] / "eval" / "tables"
ROW = "Cambrian-4B + Gaze 72+4"


@pytest.fixture(scope="module")
def table():
    return read_table(TABLES / "table1.yaml")


def test_both_averages_reproduce_all_thirteen_rows(table) -> None:
    """arXiv v1, Table 1; and the figures of the authors' page, in the order of the rows."""
    assert len(table.rows) == 13 and table.averages == {"avg": "mme_half", "avg_published": "mean"}
    v1 = [71.0, 68.8, 61.4, 68.7, 64.7, 58.7, 68.6, 69.6, 69.0, 68.1, 66.5, 67.4, 66.4]
    published = [63.3, 60.3, 52.8, 62.4, 57.9, 52.3, 59.7, 61.1, 61.2, 60.4, 57.8, 59.2, 58.3]
    assert [row.paper["avg"] for row in table.rows] == v1
    assert [row.paper["avg_published"] for row in table.rows] == published
    for row in table.rows:
        figures = {column: row.paper[column] for column in table.columns}
        for name, rule in table.averages.items():
            assert average(rule, figures) == pytest.approx(row.paper[name], abs=0.051), (row.name, name)


def test_the_published_average_reproduces_the_eight_video_rows() -> None:
    """And the changes against the first row of each model, as the page prints them."""
    video = read_table(TABLES / "video.yaml")
    assert tuple(one.name for one in video.benchmarks) == SUITES["video"] and len(video.rows) == 8
    changes = {1: -1.7, 2: -0.2, 3: 1.4, 4: 1.1, 6: 0.4, 7: 1.0}
    figures = [{column: row.paper[column] for column in video.columns} for row in video.rows]
    means = [average(video.averages["avg"], one) for one in figures]
    for place, (row, mean) in enumerate(zip(video.rows, means, strict=True)):
        assert mean == pytest.approx(row.paper["avg"], abs=0.051), row.name
        if place in changes:
            assert mean - means[0 if place < 5 else 5] == pytest.approx(changes[place], abs=0.051), row.name


def test_columns_are_the_image_suite(table) -> None:
    assert tuple(one.name for one in table.benchmarks) == SUITES["image"]


def test_rows_of_other_models_cannot_be_run(table) -> None:
    runnable = [row.name for row in table.rows if row.model_args is not None]
    assert len(runnable) == 7 and all(name.startswith("Cambrian-4B") for name in runnable)
    with pytest.raises(ValueError, match="cannot be run"):
        table.rows[0].gaze_options()
    with pytest.raises(ValueError, match="no row 'x'; the rows are:\n  Qwen2.5-VL-3B 256"):
        table.row("x")


def test_kv_sizes_are_those_of_the_options(table) -> None:
    from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
    from cambrian_gaze.gaze.cost import attended_visual

    for row in table.rows:
        if row.model_args is not None:
            side, region, context = (12, 3, 4) if "Compression" in row.name else (24, 6, 4)
            context = context if "+ Gaze" in row.name else 0
            config = GazeConfig(image=RegionBudget((1, region, region)), num_context_tokens=context)
            cost = attended_visual([(1, side, side)], config.override(**row.gaze_options()))
            assert row.kv_size == f"{cost.selected}" + (f"+{cost.context}" if context else "")


def test_video_kv_sizes_are_those_of_frames_and_k() -> None:
    from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
    from cambrian_gaze.gaze.cost import attended_visual

    for row in read_table(TABLES / "video.yaml").rows:
        if row.model_args is None:
            assert row.kv_size in ("4K", "1.5K") and "HERMES" in row.name
            continue
        config = GazeConfig(image=RegionBudget((1, 6, 6))).override(**row.gaze_options())
        frames = row.frame_options()["video_max_frames"]
        assert attended_visual([(frames, 12, 12)], config).selected == int(row.kv_size), row.name
        assert 0.9 < int(row.kv_size) / (1000 * float(row.kv_published[:-1])) < 1.05


def test_ablations_have_the_published_averages_and_options_that_make_their_kv_size() -> None:
    from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
    from cambrian_gaze.gaze.cost import attended_visual

    ablations = read_table(TABLES / "ablations.yaml")
    assert tuple(one.name for one in ablations.benchmarks) == SUITES["image"]
    averages = [67.2, 67.7, 68.1, 68.5, 68.7, 69.2, 69.2, 69.0, 69.0, 68.5, 68.1, None]
    assert [row.paper.get("avg") for row in ablations.rows] == averages
    for row in ablations.rows:
        side = int(row.name.split("x")[-1]) if "Regions" in row.name else 6
        context = int(row.name.split()[-1]) if "Context" in row.name else 4
        config = GazeConfig(image=RegionBudget((1, side, side)), num_context_tokens=context)
        cost = attended_visual([(1, 24, 24)], config.override(**row.gaze_options()))
        assert row.kv_size == f"{cost.selected}" + (f"+{cost.context}" if context else "")
        assert bool(row.needs) == (context != 4 or side != 6 or row.name.endswith("off"))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"average": "median"}, "average must be"), ({"columns": ["gqaa"]}, "no benchmark fills the columns gqaa"),
     ({"average_of": ["mmvp"]}, "not in columns"), ({"rows": [{"name": "x"}]}, "row 1: a row holds"),
     ({"rows": [{"name": "x", "kv_size": "1", "paper": {"gqq": 1}}]}, "unknown columns: gqq"),
     ({"averages": {"gqa": "mean"}}, "gqa is the name of a column and an average"), ({"colour": "red"}, "must hold"),
     ({"rows": [{"name": "x", "kv_size": "1", "paper": {}, "model_args": {"video_frames": 3}}]}, "row 1: model_args")],
)  # fmt: skip
def test_bad_tables_are_named(change: dict, message: str, tmp_path: Path) -> None:
    values = {"title": "t", "average": "mean", "columns": ["gqa"], "rows": []} | change
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "t.yaml")


def test_average_of_some_columns() -> None:
    assert average("mme_half", {"mme_p": 1000.0, "gqa": 60.0, "mmvp": 40.0}) == 50.0
    assert average("mme_half", {"mme_p": 1000.0}) == 50.0
    assert average("mme_half", {"gqa": 60.0}) == 60.0
    assert average("mean", {}) is None
