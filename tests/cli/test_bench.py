"""`cambrian-gaze bench`: rows, tables and pages, at sizes that take seconds."""

import argparse
import json
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch

from cambrian_gaze import measure
from cambrian_gaze.bench import registry
from cambrian_gaze.cli import bench
from cambrian_gaze.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
CPU_ATTENTION = "attention --quick --device cpu --heads 4 --kv_heads 2 --head_dim 8 --text 8 --repeats 1".split()
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")


def empty_page(folder: Path) -> Path:
    page = folder / "page.md"
    page.write_text("# Numbers\n<!-- measured -->\n<!-- /measured -->\n")
    return page


def rows_of(file: Path) -> list[dict]:
    (run,) = json.loads(file.read_text())["runs"]
    return run["rows"]


def test_attention_rows_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = empty_page(tmp_path)
    assert main(["bench", *CPU_ATTENTION, "--json", str(tmp_path / "rows.json"), f"--page={page}"]) == 0
    rows = rows_of(tmp_path / "rows.json")
    assert all(set(measure.ROW_KEYS) <= set(row) for row in rows)
    by_arm = {(row["arm"], row["form"], row["mode"]): row for row in rows}
    assert {"dense", "masked", "flex"} <= {arm for arm, _, _ in by_arm}
    for mode in ("forward", "forward+backward"):
        masked, dense = by_arm["masked", None, mode], by_arm["dense", "enable_gqa", mode]
        assert masked["median_us"] > 0 and masked["peak_bytes"] > 0 and masked["prepare_us"] > 0
        assert masked["max_error"] < 1e-4 and dense["max_error"] < 1e-4
        assert masked["kept"] == 0.125 and masked["visual_tokens"] == 576 and masked["device"] == "cpu"
        fastest = min(r["median_us"] for r in rows if r["arm"] == "dense" and r["mode"] == mode)
        assert masked["ratio_to_dense"] == pytest.approx(fastest / masked["median_us"])
        flex = by_arm["flex", None, mode]
        assert flex["median_us"] is None and "cpu" in flex["note"]
    printed, written = capsys.readouterr().out, (tmp_path / "page" / "attention.md").read_text()
    assert f"torch {torch.__version__.split('+')[0]}" in written
    assert "| masked |" in written and "| flex |" not in written
    assert f"cambrian-gaze bench {' '.join(CPU_ATTENTION)} --page" in written, "the command that measured it"
    assert "bench attention cpu" in printed and "| flex |" in printed
    assert rows_of(tmp_path / "page" / "attention-cpu.json") == rows
    assert (tmp_path / "page" / "attention-ratios-cpu.svg").is_file() and "attention-ratios-cpu.svg" in page.read_text()


@NO_GPU
def test_rows_of_a_missing_gpu_are_printed_and_leave_the_page_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = empty_page(tmp_path)
    for name in ("attention", "train-step"):
        assert main(["bench", name, "--device", "cuda", "--quick", "--page", str(page)]) == 0
        assert capsys.readouterr().out.count("no GPU here") >= 4
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize("bench", [CPU_ATTENTION, ["train-step", "--quick", "--device", "cpu"]], ids=lambda x: x[0])
def test_a_bench_stops_at_its_time_limit(tmp_path: Path, bench: list[str]) -> None:
    rows = tmp_path / "rows.json"
    assert main(["bench", *bench, "--time_limit", "0", "--json", str(rows)]) == 0
    notes = {row["note"] for row in rows_of(rows) if row["arm"] in ("dense", "masked", "gaze")}
    assert notes == {"no time left"}


def test_training_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "train-step --quick --device cpu --text 12 --layers 1 --repeats 1 --checkpointing".split()
    assert main(["bench", *arguments, "--json", str(tmp_path / "rows.json")]) == 0
    sdpa, all_regions, gaze, compressed = rows_of(tmp_path / "rows.json")
    assert [r["arm"] for r in (sdpa, all_regions, gaze, compressed)] == ["dense", "dense", "gaze", "gaze, compressed"]
    assert sdpa["form"] == "sdpa" and gaze["form"] == "gaze (masked)"
    assert sdpa["loss"] == pytest.approx(all_regions["loss"], rel=1e-5), "one model, two ways to dense attention"
    assert gaze["loss"] != sdpa["loss"]
    assert (sdpa["visual_tokens"], compressed["visual_tokens"]) == (64, 16)
    assert all(r["median_us"] > 0 and r["tokens_per_s"] > 0 and r["held_bytes"] > 0 for r in (sdpa, gaze))
    assert max(sdpa["ratio_to_dense"], all_regions["ratio_to_dense"]) == 1.0
    assert "tiny" in capsys.readouterr().out


def test_presets_at_full_size_are_planned_without_their_memory() -> None:
    from cambrian_gaze.bench import train_step

    parser = argparse.ArgumentParser()
    train_step.add_arguments(parser)
    if torch.cuda.is_available():
        pytest.skip("would measure them")
    rows = train_step.run(parser.parse_args(["--device", "cuda", "--preset", "4b", "7b"]))
    assert {(r["preset"], r["arm"], r["visual_tokens"]) for r in rows} >= {
        ("4b", "dense", 4608),
        ("4b", "gaze, compressed", 1152),
        ("7b", "gaze", 4608),
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: NAME"),
        (["atention"], "invalid choice"),
        (["attention", "--visual", "500"], "units of 576"),
        (["attention", "--heads", "3", "--visual", "576"], "divide into KV heads"),
        (["attention", "--arms", "maskd"], "unknown arms: maskd; known: "),
        (["train-step", "--preset", "5b"], "unknown preset '5b'"),
        (["train-step", "--frames", "0"], "at least one sample"),
    ],
)
def test_nonsense_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", *arguments])
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


def test_a_page_without_a_place_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = types.ModuleType("fake_bench")
    fake.SECTION, fake.COLUMNS, fake.QUICK = "bench fake", {"arm": "arm", "median_us": "µs"}, {}
    fake.add_arguments = lambda parser: None
    fake.run = lambda args: pytest.fail("it measured")
    monkeypatch.setitem(sys.modules, "fake_bench", fake)
    monkeypatch.setitem(bench.ACTIONS, "fake", ("fake_bench", "nothing"))
    monkeypatch.setitem(registry.BENCHES, "fake", ("fake_bench", "nothing"))
    for page, said in ((tmp_path / "page.md", "must hold <!-- measured -->"), (tmp_path / "none.md", "No such file")):
        (tmp_path / "page.md").write_text("# Numbers\n")
        with pytest.raises(SystemExit):
            main(["bench", "fake", "--page", str(page)])
        assert said in capsys.readouterr().err


def test_pages_are_made_anew_without_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / "docs" / "benchmarks", tmp_path / "page", ignore=shutil.ignore_patterns("*.md", "*.svg"))
    page = empty_page(tmp_path)
    assert main(["bench", "page", "--page", str(page)]) == 0
    assert str(tmp_path / "page" / "decode.md") in capsys.readouterr().out
    committed = (ROOT / "docs" / "benchmarks" / "decode-ratios-cpu.svg").read_text()
    assert (tmp_path / "page" / "decode-ratios-cpu.svg").read_text() == committed
    assert main(["bench", "page", "--page", str(page)]) == 0 and "nothing changed" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["bench", "page", "--page", str(tmp_path / "none.md")])
    assert "No such file" in capsys.readouterr().err


def test_attention_shows_what_auto_would_take(tmp_path, capsys):
    sizes = "--device cpu --text 4 --visual 576 --heads 2 --kv_heads 1 --head_dim 8".split()
    sizes += ["--arms", "varlen_reference", "flex"]
    rows_file = tmp_path / "rows.json"
    assert main(["bench", "attention", "--choose", *sizes, "--json", str(rows_file)]) == 0
    rows = {(row["mode"], row["arm"]): row for row in rows_of(rows_file)}
    assert len(rows) == 6
    for mode in ("forward", "forward+backward"):
        assert rows[mode, "masked"]["note"] == "taken" and rows[mode, "masked"]["median_us"] > 0
        assert rows[mode, "varlen_reference"]["max_error"] < 1e-4 and rows[mode, "varlen_reference"]["note"] is None
    assert rows["forward+backward", "flex"]["note"] == "no gradients on cpu"
    assert "bench attention choice cpu" in capsys.readouterr().out


def test_a_time_limit_is_shared_among_the_trials_that_are_left(tmp_path: Path, monkeypatch) -> None:
    from cambrian_gaze.attention.choice import trial

    now, given = [0.0], []

    def try_all(*args, timing, **options):
        given.append(timing.seconds)
        now[0] += 20 if len(given) == 1 else timing.seconds
        return [trial.Outcome("masked", layer_us=1.0, prepare_us=1.0)]

    monkeypatch.setattr(trial, "try_all", try_all)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    sizes = "--device cpu --text 4 --visual 576 1152 --heads 2 --kv_heads 1 --head_dim 8".split()
    rows_file = tmp_path / "rows.json"
    command = ["bench", "attention", "--choose", *sizes, "--json", str(rows_file)]
    assert main([*command, "--time_limit", "50"]) == 0
    assert given == [12.5, 10.0, 10.0, 10.0]
    given.clear()
    assert main(command) == 0
    assert given == [60.0] * 4
    given.clear()
    assert main([*command, "--time_limit", "15"]) == 0
    assert len(given) == 1 and [row["note"] for row in rows_of(rows_file)[1:]] == ["no time left"] * 3
