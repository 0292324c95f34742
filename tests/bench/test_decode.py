"""The decode bench runs, checks itself against float64 and fills its rows."""

import argparse
import subprocess
from functools import partial

import pytest
import torch

from cambrian_gaze import measure
from cambrian_gaze.attention.decode import native as decode_native
from cambrian_gaze.bench import decode as bench_decode
from cambrian_gaze.bench.decode_cases import _runs, flashing


def test_rows_of_a_small_run():
    parser = argparse.ArgumentParser()
    bench_decode.add_arguments(parser)
    small = "--tokens 1152 --heads 8 --kv-heads 2 --head-dim 32 --batch 2 --seconds 0 --device cpu"
    rows = bench_decode.run(parser.parse_args(small.split()))
    assert [r["arm"] for r in rows] == (["dense"] * 3 + ["decode"] * 2) * 2
    for r in rows:
        assert set(measure.ROW_KEYS) <= set(r) and r["median_us"] > 0 and r["ratio_to_dense"] > 0
        assert r["max_error"] < (0.05 if r["dtype"] == "bf16" else 1e-5)
    dense, group, head = rows[0], rows[3], rows[4]
    assert dense["attended_entries"] == 1152 + 64
    assert group["attended_entries"] == head["attended_entries"] == 4 * 36 + 2 * 4 + 64
    assert group["union_fraction"] == 4 / 32 < head["union_fraction"] <= 16 / 32
    assert group["read_bytes"] < head["read_bytes"] < dense["read_bytes"]
    assert measure.markdown_table(rows, bench_decode.COLUMNS).count("\n") == len(rows) + 1
    assert max(r["ratio_to_dense"] for r in rows[:3]) == 1.0 and torch.is_grad_enabled()


def test_entries_follow_k_and_not_the_visual_tokens():
    """K given as a number: its own table, the same visual entries at every size."""
    parser = argparse.ArgumentParser()
    bench_decode.add_arguments(parser)
    small = "--tokens 576 1152 --regions 2 8 --heads 8 --kv-heads 2 --head-dim 32 --seconds 0 --device cpu --dtype fp32"
    rows = bench_decode.run(parser.parse_args(small.split()))
    gaze = [r for r in rows if r["arm"] == "decode"]
    assert [r["visual_tokens"] for r in gaze] == [576] * 4 + [1152] * 4
    for r in gaze:
        assert r["visual_entries"] == 36 * r["regions"] and r["kept"] == 36 * r["regions"] / r["visual_tokens"]
        assert r["attended_entries"] == r["visual_entries"] + 64 + 4 * r["visual_tokens"] // 576
    assert {r["section"] for r in rows} == {bench_decode.SECTION_OF_REGIONS}


@pytest.mark.parametrize(
    ("options", "section", "forms"),
    [
        ("", bench_decode.SECTION, {"compiled"}),
        ("--kept 0.2 1", bench_decode.SECTION_OF_SHARES, {"compiled"}),
        ("--batch 1 2", bench_decode.SECTION_OF_BATCHES, {"compiled"}),
        ("--layers 3", bench_decode.SECTION_OF_LAYERS, {"compiled"}),
        ("--plain-torch", bench_decode.SECTION_OF_PLAIN_TORCH, {"plain torch"}),
        ("--dtype fp16", bench_decode.SECTION, {"plain torch"}),
    ],
)
def test_each_kind_of_run_has_its_table_and_says_what_ran(options, section, forms, monkeypatch):
    parser = argparse.ArgumentParser()
    bench_decode.add_arguments(parser)
    small = "--tokens 576 --heads 4 --kv-heads 2 --head-dim 16 --seconds 0 --device cpu --dtype fp32"
    compiled = []
    real = decode_native._run
    monkeypatch.setattr(decode_native, "_run", lambda *args: compiled.append(True) or real(*args))
    rows = bench_decode.run(parser.parse_args([*small.split(), *options.split()]))
    assert {row["section"] for row in rows} == {section}
    assert {row["form"] for row in rows if row["arm"] == "decode"} == forms
    assert bool(compiled) == (forms == {"compiled"})


@pytest.mark.parametrize(
    ("options", "reason"),
    [("--regions 17 --tokens 576", "more than the 16"), ("--tokens 600", "600"), ("--kept 1 --regions 2", "not both")],
)
def test_sizes_that_do_not_fit(options, reason):
    parser = argparse.ArgumentParser()
    bench_decode.add_arguments(parser)
    with pytest.raises(ValueError, match=reason):
        bench_decode.run(parser.parse_args(["--device", "cpu", *options.split()]))


def test_beside_busy_processes():
    """Dense beside gaze in one run, each load with ratios of its own; nothing keeps running afterwards."""
    parser = argparse.ArgumentParser()
    bench_decode.add_arguments(parser)
    small = "--tokens 576 --heads 4 --kv-heads 2 --head-dim 32 --seconds 0 --device cpu --dtype fp32 --busy 0 1"
    started = []
    popen = subprocess.Popen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure.subprocess, "Popen", lambda *args: started.append(popen(*args)) or started[-1])
        rows = bench_decode.run(parser.parse_args(small.split()))
    assert [r["busy"] for r in rows] == [0] * 5 + [1] * 5
    for part in (rows[:5], rows[5:]):
        assert max(r["ratio_to_dense"] for r in part if r["arm"] == "dense") == 1.0
        assert all(r["median_us"] <= r["p90_us"] for r in part)
    assert {r["section"] for r in rows} == {bench_decode.SECTION_OF_LOAD}
    assert len(started) == 1 and started[0].returncode is not None


def test_flash_attention_or_nothing():
    """On a CPU too torch has a kernel of that name: it computes the same, and refuses dropout."""
    q, k, v = (torch.randn(1, 2, n, 16) for n in (1, 9, 9))
    call = partial(torch.nn.functional.scaled_dot_product_attention, q, k, v)
    assert torch.allclose(flashing(call)(), call(), atol=1e-6)
    refused = partial(call, dropout_p=0.5)
    assert _runs(refused) and not _runs(flashing(refused))
