"""The table in docs/method.md: the cost model beside the authors' figures, computed."""

import re
from pathlib import Path

import pytest

from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.cost import attended_visual
from cambrian_gaze.gaze.layout import VIDEO
from cambrian_gaze.models.presets import QWEN2_5_7B, QWEN3_4B

PAGE = Path(__file__).parents[1] / "docs" / "method.md"
HEADS, DIM, LAYERS = (QWEN3_4B[name] for name in ("num_attention_heads", "head_dim", "num_hidden_layers"))
FLOPS = 4 * DIM * HEADS * LAYERS
BYTES = 2 * 2 * DIM * QWEN3_4B["num_key_value_heads"] * LAYERS
GAZE = GazeConfig(image=RegionBudget((1, 6, 6), top_k=42))
KV = attended_visual([(64, 12, 12)], GAZE, [VIDEO])


def rows() -> dict[str, list[str]]:
    text = PAGE.read_text(encoding="utf-8").split("## Cost, beside")[1].split("## Decisions")[0]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: [cell.strip() for cell in cells] for cells in lines[1:]}


def fits(published: str, per_entry: int) -> range:
    """The entries that a figure of two decimals, in billions, can mean."""
    low, high = (float(published) - 0.005) * 1e9, (float(published) + 0.005) * 1e9
    return range(int(-(-low // per_entry)), int(high // per_entry) + 1)


@pytest.mark.parametrize(
    ("name", "entries", "per_entry", "unit", "agrees"),
    [
        ("attention, dense", KV.of, FLOPS, "GFLOPs", False),
        ("attention, gaze 1.5K", KV.selected, FLOPS, "GFLOPs", True),
        ("context tokens", KV.context, FLOPS, "GFLOPs", True),
        ("routing", KV.regions, FLOPS // 2, "GFLOPs", False),
        ("KV memory, dense", KV.of, BYTES, "GB", True),
        ("KV memory on the GPU, gaze with offloading", KV.total, BYTES, "GB", True),
    ],
)
def test_a_row_is_what_the_cost_model_says(name: str, entries: int, per_entry: int, unit: str, agrees: bool) -> None:
    _, said_entries, here, published, verdict = rows()[name]
    assert said_entries.split()[0] == f"{entries:,}"
    assert here == f"{entries * per_entry / 1e9:.2f} {unit}"
    assert verdict.startswith("agrees" if agrees else "not explained")
    possible = fits(published, per_entry)
    if text := re.search(r"with (\d+) to (\d+) entries of text", verdict):
        assert (possible[0] - entries, possible[-1] - entries) == (int(text[1]), int(text[2]))
    else:
        assert (entries in possible) == agrees


def test_the_sentences_below_it() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert (FLOPS, BYTES) == (589_824, 147_456) and "589,824" in text and "147,456" in text
    dense = fits("5.52", FLOPS)
    assert 9_360 in dense and f"asks for {dense[0] - KV.of} to {dense[-1] - KV.of} entries" in text
    assert f"0.89 for at most {fits('0.89', FLOPS)[-1] - KV.selected}." in text
    seven = 4 * 128 * QWEN2_5_7B["num_attention_heads"] * QWEN2_5_7B["num_hidden_layers"]
    assert f"{seven:,} FLOPs an entry" in text and KV.of not in fits("5.52", seven)
