"""Rows and the runs that lead to them; the commands of their steps."""

from pathlib import Path

import pytest

from cambrian_gaze.cli.main import main
from cambrian_gaze.evaluation.tables.table import read_table
from cambrian_gaze.reproduce.commands import Options, plan_words, steps
from cambrian_gaze.reproduce.rows import find_chain, read_rows
from cambrian_gaze.training.build import build_shapes
from cambrian_gaze.training.config.config import load
from tests.training._runs import ROOT

ROW = "Cambrian-4B + Gaze 72+4"


def every_row() -> list[tuple[str, str]]:
    return [(table, row) for table, entry in read_rows().items() for row in entry["rows"]]


def test_every_row_that_can_be_measured_can_be_reproduced() -> None:
    for table, entry in read_rows().items():
        runnable = {row.name for row in read_table(ROOT / entry["table"]).rows if row.model_args is not None}
        assert set(entry["rows"]) == runnable, table


@pytest.mark.parametrize(("table", "row"), every_row(), ids=lambda text: text)
def test_a_rows_runs_lead_to_each_other(table: str, row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    chain = find_chain(table, row)
    assert [run.name for run in chain.runs] == ["stage1", "stage2", "video"][: 3 if chain.is_video else 2]
    assert chain.is_video == (table == "video")
    for options in (
        Options(),
        Options(work=Path("elsewhere"), gpus=8),
        Options(work=Path("elsewhere"), preset="tiny", data=Path("folder")),
    ):
        found = steps(chain, options)
        assert [step.name for step in found] == [*(run.name for run in chain.runs), "evaluation", "table"]
        for step, before in zip(found[1:-2], found, strict=False):
            said = " ".join(step.words) if options.work != Path() else str(step.run.values)
            wanted = before.output if step.name == "video" else before.output / "mm_projector.safetensors"
            assert str(wanted) in said, "each starts from the model before it"
        model = found[-2].words[found[-2].words.index("--model") + 1]
        assert model == str(found[-3].output)


@pytest.mark.parametrize(("table", "row"), every_row(), ids=lambda text: text)
def test_a_tiny_row_keeps_as_many_regions_of_as_many(table: str, row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 regions as many as the row's model keeps; videos keep the same share."""
    monkeypatch.chdir(ROOT)
    chain = find_chain(table, row)
    options = Options(work=Path("w"), preset="tiny", data=Path("d"))
    for step in steps(chain, options)[:-2]:
        own = load([str(step.run.config), "--use_cpu", "--no_bf16", "--deepspeed", "null"])
        run = load([*step.words[1:], "--use_cpu"])
        run.model.model_name_or_path = None
        sizes = build_shapes(run.model, run.gaze, run.training).config
        theirs = build_shapes(own.model, own.gaze, own.training).config
        mine, there = sizes.gaze_config, theirs.gaze_config
        assert mine.is_dense == there.is_dense and mine.num_context_tokens == there.num_context_tokens
        if there.image.kv_budget is not None:
            kept = [c.image.kv_budget // c.image.tokens_per_region for c in (mine, there)]
            assert kept[0] == kept[1]
            regions = [
                (grid[0] // c.image.region_size[1], grid[1] // c.image.region_size[2])
                for grid, c in ((sizes.grid, mine), (theirs.grid, there))
            ]
            assert regions[0] == regions[1]
        if there.video is not None:
            frames = [one.data.video_max_frames for one in (run, own)]
            assert mine.video.top_k == there.video.top_k * frames[0] // frames[1]


def test_what_is_wrong_is_named(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    for words, said in (
        (["table1", "--row", "Cambrian-4B + Gaze 72"], "did you mean 'Cambrian-4B + Gaze 72+4'"),
        (["table1", "--row", "LLaVA-OV-7B 196"], "another model's, shown for comparison"),
        (["table2", "--row", ROW], "did you mean 'table1'"),
        (["table1", "--row", ROW, "--learnig_rate", "1"], "unknown option --learnig_rate"),
        (["table1", "--row", ROW, "--step", "stage3"], "no step 'stage3'; it has stage1, stage2, evaluation, table"),
        (["table1", "--row", ROW, "--step", "table", "--work", str(tmp_path)], "table needs stage1, which is not done"),
    ):
        assert main(["reproduce", *words]) == 2
        assert said in capsys.readouterr().err
    options = ["--preset", "tiny", "--data", str(tmp_path / "no data"), "--work", str(tmp_path)]
    assert main(["reproduce", "table1", "--row", ROW, *options]) == 2
    error = capsys.readouterr().err
    assert f"row {ROW!r} of table1 lacks data" in error
    for name in ("align.jsonl", "finetune.jsonl", "images", "benchmarks/lmms-lab-encoder/MME"):
        assert str(tmp_path / "no data" / name) in error
    assert not (tmp_path / "runs").exists() and not (tmp_path / "checkpoints").exists()
    for words in ([], ["table1"], ["--row", ROW], ["table1", "--row", ROW, "--preset", "tiny"]):
        with pytest.raises(SystemExit):
            main(["reproduce", *words])


def test_a_dry_run_prints_the_commands(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["reproduce", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(row in listed for _, row in every_row())
    assert "pretrain_cambrian_4b → finetune_cambrian_4b_gaze_72" in listed
    assert main(["reproduce", "table1", "--row", ROW, "--dry_run", "--gpus", "8", "--report_to", "none"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert [line.split()[1] for line in said] == ["plan", "train", "train", "eval", "eval"]
    assert all("--nproc_per_node 8 --report_to none" in line for line in said[1:3])
    assert "--num_processes 8" in said[3] and "--model" not in said[4]


def test_rows_are_known_outside_of_the_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An installed copy carries the configurations: they have the same names everywhere."""
    monkeypatch.chdir(tmp_path)
    chain = find_chain("table1", ROW)
    assert plan_words(chain, Options())[1:3] == [str(run.config) for run in chain.runs]
    assert str(chain.runs[0].config) == "train/configs/pretrain_cambrian_4b.yaml"
