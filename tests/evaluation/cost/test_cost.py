"""Costs of attention: counts against the cost model, dense beside gaze, unions by hand."""

import json
from types import SimpleNamespace

import pytest
import torch

from cambrian_gaze.cli.main import main
from cambrian_gaze.evaluation.cost import cost
from cambrian_gaze.evaluation.cost.cost import measure_costs
from cambrian_gaze.gaze.config import GazeConfig


@pytest.fixture(autouse=True)
def no_timing(request, monkeypatch):
    """Most tests are about counts; time and memory are measured in the last one."""
    if request.node.get_closest_marker("slow"):
        return
    monkeypatch.setattr(cost.measure, "median_us", lambda call, device, **rest: 1e3)
    monkeypatch.setattr(cost.measure, "peak_bytes", lambda call, device: 1)


@pytest.mark.parametrize(("frames", "visual", "context"), [(None, 64, 4), (2, 128, 8)])
def test_dense_and_gaze_side_by_side(tiny, frames, visual, context):
    model, processor = tiny
    costs = measure_costs(model, processor, {"top_k": 2}, frames=frames, question="What is it?", new_tokens=3)
    assert [(one.phase, one.arm) for one in costs] == [
        ("prefill", "dense"), ("decode", "dense"), ("prefill", "gaze"), ("decode", "gaze")
    ]  # fmt: skip
    for one in costs:
        counted = (visual if one.arm == "dense" else 8) + context
        assert (one.visual + one.context, one.context, one.of) == (counted, context, visual)
        # 3 layers of 4 query heads on 2 KV heads of 24, in fp32
        assert one.attention_flops == one.queries * counted * 4 * 24 * 4 * 3
        assert one.score_bytes == one.queries * counted * 4
        assert one.kv_held_bytes == (visual + context) * 2 * 24 * 2 * 4 * 3
        assert one.routing_flops == (0 if one.arm == "dense" else one.queries * 2 * 24 * 4 * 3 * visual / 4)
    assert costs[1].union == 1.0 and costs[1].kv_read_bytes == costs[1].kv_held_bytes
    # Two heads of a KV head choose 2 regions each, so they read 2 to 4 of them.
    assert 2 <= costs[3].pages <= 4 and costs[3].union == pytest.approx(costs[3].pages * 4 / visual)
    assert costs[3].kv_read_bytes == pytest.approx((costs[3].union * visual + context) * 2 * 24 * 2 * 4 * 3)


def test_queries_of_the_prompt_are_those_after_the_picture(tiny):
    model, processor = tiny
    short, long = (
        measure_costs(model, processor, {}, frames=None, question=text, new_tokens=2)[0].queries
        for text in ("a", "a a a")
    )
    more = len(processor.tokenizer("a a a")["input_ids"]) - len(processor.tokenizer("a")["input_ids"])
    assert long - short == more > 0


def test_counts_that_differ_from_the_cost_model_fail(tiny, monkeypatch):
    model, processor = tiny
    with pytest.raises(RuntimeError, match=r"prefill: counted 63\+4 of 64 KV entries .*says 64 to 64, \+4 of 64"):
        cost._check_prefill(
            SimpleNamespace(attended_visual=63.0, attended_context=4.0, visible_visual=64.0), 64.0, 64.0, 4, 64
        )
    monkeypatch.setattr(cost, "expected_attended", lambda *arguments: (9.0, 9.0, 4))
    with pytest.raises(RuntimeError, match="prefill"):
        measure_costs(model, processor, {}, frames=None, question="?", new_tokens=2)


def test_union_of_heads_by_hand():
    """Four query heads on two KV heads, one step after the prompt's: {0, 1} ∪ {1, 2} and {3} ∪ {3}."""
    regions = torch.tensor([[[[9, 9]] * 4], [[[0, 1], [1, 2], [3, -1], [3, -1]]]])
    regions = torch.cat([regions[:1].clamp(max=3).reshape(1, 1, 4, 2), regions[1:].reshape(1, 1, 4, 2)])[None]
    boxes = [(0, 0, 1, 0, 0, 2, 2), (0, 0, 1, 0, 2, 2, 4), (0, 0, 1, 2, 0, 3, 2), (0, 0, 1, 2, 2, 3, 4)]
    trace = SimpleNamespace(regions=regions, region_boxes=lambda row: boxes)
    config = GazeConfig.from_dict({"image": {"region_size": [1, 2, 2], "top_k": 2}})
    union, pages = cost._union(trace, config, 12, SimpleNamespace(layers=1, groups=2))
    assert pages == (3 + 1) / 2
    assert union == pytest.approx(((4 + 4 + 2) + 2) / 2 / 12)


@pytest.mark.parametrize(("new_tokens", "frames"), [(1, None), (2, 0)])
def test_sizes_that_cannot_be_measured_are_refused(tiny, new_tokens, frames):
    with pytest.raises(ValueError, match="must be at least"):
        measure_costs(*tiny, {}, frames=frames, question="?", new_tokens=new_tokens)


def test_command_writes_one_table_with_quality_beside_it(tiny, whole_run, tmp_path, capsys):
    folder = tmp_path / "model"
    for part in tiny:
        part.save_pretrained(folder)
    arguments = ["--model", str(folder), "--output", str(tmp_path), "--new_tokens", "2", "--gaze", "top_k=1"]
    assert main(["eval", "cost", *arguments, "--device", "cpu", "--runs", str(whole_run)]) == 0
    text = (tmp_path / "cost.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "| decode | gaze | 4+4 of 64 | 4 |" in text and "| 11.8% |" in text
    values = json.loads((tmp_path / "cost.json").read_text())
    assert [one["arm"] for one in values["costs"]] == ["dense", "dense", "gaze", "gaze"]
    tasks = {row["task"]: row for row in values["quality"]}
    assert tasks["gqa.cambrian"]["attended"] == {"visual": 8.0, "context": 4.0, "of": 64.0}
    assert 0 < tasks["gqa.cambrian"]["ms_per_token"] < 1e3 * tasks["gqa.cambrian"]["seconds_per_answer"]


def test_command_refuses_what_is_no_run(tmp_path, capsys):
    arguments = ["--model", "nowhere", "--output", str(tmp_path), "--runs", str(tmp_path)]
    assert main(["eval", "cost", *arguments]) == 1
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.slow
def test_times_and_memory_are_measured(tiny):
    costs = measure_costs(*tiny, {"top_k": 2}, frames=4, question="What is it?", new_tokens=8)
    prefill, step = costs[0], costs[1]
    assert all(one.seconds > 0 for one in costs if one.phase == "prefill")
    assert step.seconds < prefill.seconds
    # at least the keys and values that the cache keeps
    assert prefill.peak_bytes > prefill.kv_held_bytes and step.peak_bytes is None
