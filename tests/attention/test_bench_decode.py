"""The decode bench runs, checks itself against float64 and fills its rows."""

import argparse

import torch

from cambrian_gaze.attention import bench_decode, measure


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
    assert bench_decode.table(rows).count("\n") == len(rows) + 1
    assert max(r["ratio_to_dense"] for r in rows[:3]) == 1.0 and torch.is_grad_enabled()
