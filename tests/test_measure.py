"""Measuring: medians, memory, ratios, tables."""

import time

import torch

from cambrian_gaze import measure
from cambrian_gaze.machine import describe_machine, machine_line

CPU = torch.device("cpu")


def test_median_ignores_warm_up_and_outliers():
    calls = []

    def call():
        calls.append(0)
        time.sleep(0.05 if len(calls) in (1, 5) else 0.001)

    assert 1_000 <= measure.median_us(call, CPU, warmup=1, repeats=9) < 25_000
    assert len(calls) == 10


def test_slow_calls_are_repeated_three_times():
    calls = []
    measure.median_us(lambda: (calls.append(0), time.sleep(0.002)), CPU, warmup=0, repeats=99, seconds=0.0)
    assert len(calls) == 3


def test_peak_counts_what_lives_at_once():
    def call():
        a = torch.empty(1 << 20)  # 4 MiB
        del a
        return torch.empty(1 << 21), torch.empty(1 << 20)

    assert measure.peak_bytes(call, CPU) == 12 << 20


def test_machine_is_named():
    machine = describe_machine()
    assert machine["cpu"] and torch.__version__.startswith(machine["torch"].split("+")[0])
    assert f"torch {machine['torch']}" in machine_line(machine)


def test_ratios_are_to_the_fastest_dense_row_of_the_same_case():
    rows = [
        measure.row(arm="dense", form="a", visual_tokens=9, median_us=8.0),
        measure.row(arm="dense", form="b", visual_tokens=9, median_us=4.0),
        measure.row(arm="masked", visual_tokens=9, median_us=2.0),
        measure.row(arm="masked", visual_tokens=10, median_us=2.0),
        measure.row(arm="flex", visual_tokens=9),
    ]
    measure.add_ratios(rows, same=["visual_tokens"])
    assert [r["ratio_to_dense"] for r in rows] == [0.5, 1.0, 2.0, None, None]


def test_table_writes_numbers_by_their_kind():
    rows = [
        measure.row(arm="dense", visual_tokens=36864, median_us=1234.5, max_error=1.2e-7, peak_bytes=3 << 20),
        measure.row(arm="flex", visual_tokens=576),
    ]
    columns = {"arm": "arm", "visual_tokens": "N_v", "median_us": "µs", "max_error": "error", "peak_bytes": "peak"}
    assert measure.markdown_table(rows, columns).splitlines() == [
        "| arm | N_v | µs | error | peak |",
        "|---|---|---|---|---|",
        "| dense | 36,864 | 1,234 | 1e-07 | 3.0 MiB |",
        "| flex | 576 | — | — | — |",
    ]


def test_rows_have_the_agreed_keys():
    assert tuple(measure.row(arm="dense", extra=1)) == (*measure.ROW_KEYS, "extra")
