"""Findings say what the rows say, and nothing where there are none."""

import pytest

from cambrian_gaze import measure
from cambrian_gaze.bench.pages.findings import find
from cambrian_gaze.bench.pages.pictures import draw
from cambrian_gaze.bench.pages.texts import TEXTS
from cambrian_gaze.bench.results import Run


def runs(section: str, rows: list[dict], *same: str) -> list[Run]:
    rows = [measure.row(**row) for row in rows]
    measure.add_ratios(rows, same)
    return [Run(section, "cpu", "", "", {}, rows)]


def attention(arm: str, mode: str, us: float | None, **more) -> dict:
    sizes = dict(visual_tokens=576, text_tokens=64, heads=4, kv_heads=2, head_dim=64, dtype="fp32")
    return dict(arm=arm, mode=mode, median_us=us, **sizes, **more)


@pytest.mark.parametrize("bench", TEXTS)
def test_nothing_is_said_or_drawn_of_nothing(bench: str) -> None:
    empty = Run(f"bench {bench}", "cpu", "", "", {}, [measure.row(arm="gaze", note="no time left")])
    assert find(bench, []) == find(bench, [empty]) == []
    assert draw(bench, []) == draw(bench, [empty]) == []


def test_attention_by_backend_and_mode_without_the_reference() -> None:
    times = {"dense": (2, 8), "masked": (4, 4), "varlen_reference": (999, 999), "flex": (1, None)}
    rows = [
        attention(arm, mode, us)
        for arm, both in times.items()
        for mode, us in zip(("forward", "forward+backward"), both, strict=True)
    ]
    said = find("attention", runs("bench attention", rows, "mode"))
    assert said == [
        "over 576 visual tokens, `masked` forward: **slower than dense**, 0.5× of its speed; `masked` forward and "
        "backward: 2× as fast as dense; `flex` forward: 2× as fast as dense."
    ]
    (ratios,) = draw("attention", runs("bench attention", rows, "mode"))
    assert ">masked<" in ratios.svg and ">flex<" in ratios.svg and "varlen" not in ratios.svg


def test_prefill_whose_memory_alone_was_measured() -> None:
    rows = [
        dict(arm=arm, visual_tokens=n, peak_bytes=share * n * 2**20, heads=4, kv_heads=2, head_dim=64, dtype="fp32")
        for n in (576, 1152) for arm, share in (("dense", 1), ("gaze", 2))
    ]  # fmt: skip
    said = find("prefill", runs("bench prefill", rows, "visual_tokens"))
    assert said == ["memory grows as N^1.00: 2.2 GiB beyond the cache at 1,152, dense 1.1 GiB."]
    assert [one.name for one in draw("prefill", runs("bench prefill", rows, "visual_tokens"))] == ["prefill-memory"]


def test_decoding_over_k_and_with_k_fixed() -> None:
    def step(n: int, k: int, us: float, granularity: str | None = "kv_group") -> dict:
        arm = "decode" if granularity else "dense"
        return dict(arm=arm, visual_tokens=n, regions=k, kept=36 * k / n, granularity=granularity, dtype="bf16") | dict(
            median_us=us, batch=1, layers=1
        )

    shares = [step(1152, 32, 100, None), step(1152, 4, 10), step(1152, 32, 50), step(576, 16, 1, None)]
    (said,) = find("decode", runs("bench decode shares", shares, "visual_tokens"))
    assert said.startswith("time follows K: 10 µs with K = 4 and 50 µs with all 32, dense 100 µs (1,152 visual tokens")
    fixed = [step(576, 16, 10, None), step(1152, 32, 20, None), step(576, 2, 4), step(1152, 2, 5)]
    (said,) = find("decode", runs("bench decode regions", fixed, "visual_tokens"))
    assert said == "with 2× the visual tokens dense takes 2.0× as long, gaze 1.2× with K fixed at 2."


def test_several_rows_at_once_leave_out_the_single_row() -> None:
    rows = [
        dict(arm=arm, batch=batch, visual_tokens=576, kept=0.125, granularity="q_head", dtype="bf16", median_us=us)
        for batch, dense, gaze in ((1, 9, 1), (8, 9, 3)) for arm, us in (("dense", dense), ("decode", gaze))
    ]  # fmt: skip
    (said,) = find("decode", runs("bench decode batches", rows, "batch"))
    assert said == "several rows at once, 3× as fast as dense."
    (ratios,) = draw("decode", runs("bench decode batches", rows, "batch"))
    assert "576 tokens, 8 rows" in ratios.svg and "1 rows" not in ratios.svg


def decoding(arm: str, n: int, us: float, **more) -> dict:
    granularity = None if arm == "dense" else "kv_group"
    row = dict(arm=arm, visual_tokens=n, median_us=us, granularity=granularity, dtype="bf16", batch=1, layers=1)
    return row | {"regions": n // 36, "kept": 1.0 if arm == "dense" else 0.125} | more


def test_triton_is_not_mixed_into_what_every_model_does() -> None:
    sizes = (576, 1152, 2304)
    times = {"dense": 1.0, "decode": 0.5, "triton": 0.25}
    rows = [decoding(arm, n, us * n) for n in sizes for arm, us in times.items()]
    drawn = {one.name: one for one in draw("decode", runs("bench decode", rows, "visual_tokens"))}
    assert drawn["decode-time-bf16"].alt.endswith("dense, kv_group, kv_group, triton")
    assert drawn["decode-ratios"].alt.endswith("kv_group bf16, kv_group, triton bf16")
    shares = [
        decoding(arm, 1152, us, regions=k, kept=kept)
        for k, kept, by in ((4, 0.125, {"decode": 10, "triton": 1}), (32, 1.0, {"decode": 50, "triton": 2}))
        for arm, us in by.items()
    ]
    said = find("decode", runs("bench decode shares", [*shares, decoding("dense", 1152, 100)], "visual_tokens"))
    assert said[0].startswith("time follows K: 10 µs with K = 4 and 50 µs with all 32, dense 100 µs")
    fixed = [
        decoding(arm, n, us * n / 576, regions=2) for n in (576, 1152) for arm, us in {**times, "triton": 0.01}.items()
    ]
    fixed[2]["median_us"] = 0.001
    said = find("decode", runs("bench decode regions", fixed, "visual_tokens"))
    assert said == ["with 2× the visual tokens dense takes 2.0× as long, gaze 2.0× with K fixed at 2."]


def test_all_is_said_of_all_regions_alone() -> None:
    rows = [decoding("decode", 1152, us, regions=k, kept=k / 32) for k, us in ((4, 10), (16, 30))]
    rows.append(decoding("dense", 1152, 100))
    (said,) = find("decode", runs("bench decode shares", rows, "visual_tokens"))
    assert "10 µs with K = 4 and 30 µs with K = 16, dense" in said
    (picture,) = draw("decode", runs("bench decode shares", rows, "visual_tokens"))
    assert "regions kept K<" in picture.svg and "of 16" not in picture.svg


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({}, "one layer of the 4B decoder, bf16"),
        ({"heads": 4, "kv_heads": 2, "head_dim": 16}, "one layer, 4 heads on 2 KV heads of 16, bf16"),
    ],
)
def test_a_picture_names_the_sizes_of_its_rows(sizes: dict, said: str) -> None:
    rows = [decoding(arm, n, n, **sizes) for n in (576, 1152) for arm in ("dense", "decode")]
    assert said in draw("decode", runs("bench decode", rows, "visual_tokens"))[0].alt
    mixed = [*rows, decoding("decode", 2304, 5.0, heads=9)]
    assert "(one layer, bf16" in draw("decode", runs("bench decode", mixed, "visual_tokens"))[0].alt
