"""Counts of a batch, and FLOPs by the configuration."""

import pytest
import torch

from cambrian_gaze import CambrianGazeForConditionalGeneration
from cambrian_gaze.data.collator import Collator
from cambrian_gaze.data.quarantine import Quarantined
from cambrian_gaze.training.metrics.flops import FlopsModel, peak_flops
from cambrian_gaze.training.metrics.meter import COUNTS, Meter, count_batch


def batch() -> dict:
    """Rows of 4 and 3 tokens: two visual, one context, four text."""
    return {
        "mm_token_type_ids": torch.tensor([[1, 2, 3, 0], [0, 0, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "labels": torch.tensor([[7, -100, -100, 5], [-100, 5, 5, -100]]),
        "pixel_values": torch.zeros(2, 3, 4, 4),
        "num_samples": 2,
        "num_quarantined": 1,
        "num_filled": 1,
        "num_overlong": 0,
    }


def test_a_batch_is_counted() -> None:
    counts = dict(zip(COUNTS, count_batch(batch()).tolist(), strict=True))
    assert counts == {
        "supervised": 3,
        "samples": 2,
        "quarantined": 1,
        "filled": 1,
        "overlong": 0,
        "visual": 2,
        "context": 1,
        "text": 4,
        "padding": 1,
        "squared": 25,
        "images": 2,
    }


def test_attention_of_a_pack_is_that_of_its_samples() -> None:
    packed = batch() | {"sample_ids": torch.tensor([[0, 0, 0, 1], [0, 1, 2, -1]])}
    counts = dict(zip(COUNTS, count_batch(packed).tolist(), strict=True))
    assert counts["squared"] == 9 + 1 + 3


def test_the_collators_filler_is_no_sample() -> None:
    counts = dict(zip(COUNTS, count_batch(Collator(0)([Quarantined("f", 1, "x", "bad")] * 2)).tolist(), strict=True))
    assert (counts["samples"], counts["quarantined"], counts["images"]) == (0, 2, 0)


def test_a_window_reports_rates_and_totals_go_on() -> None:
    meter = Meter(FlopsModel(1.0, 0.0, 0.0), peak=10.0, world_size=1)
    assert meter.add([batch(), batch()], torch.device("cpu")) == 6
    report = meter.report()
    assert report["quarantined"] == 2
    assert report["text_tokens_per_s"] == pytest.approx(2 * report["visual_tokens_per_s"])
    assert report["mfu"] == pytest.approx(report["flops_per_s"] / 10)
    meter.add([batch()], torch.device("cpu"))
    assert meter.report()["quarantined"] == 3
    assert (meter.quarantined, meter.seen) == (3, 6)
    assert report["padding"] == pytest.approx(1 / 8)
    meter.add([batch()], torch.device("cpu"))
    assert meter.summary() == {"padding": 1 / 8, "samples": 8, "quarantined": 4, "filled": 4, "overlong": 0}
    assert meter.report()["visual_tokens_per_s"] == 0


def test_flops_of_the_real_model() -> None:
    with torch.device("meta"):
        model = CambrianGazeForConditionalGeneration.from_preset("4b")
    flops = FlopsModel.of(model)
    assert flops.per_token == pytest.approx(6 * 4.02e9, rel=0.01)  # Qwen3-4B, its tied output layer once
    assert flops.per_squared_token == 3 * 2 * 36 * 4096
    assert flops.per_image > 6 * 0.4e9 * 576
    for parameter in (*model.model.vision_tower.parameters(), *model.model.language_model.parameters()):
        parameter.requires_grad_(False)
    frozen = FlopsModel.of(model)
    assert frozen.per_token == pytest.approx(flops.per_token * 4 / 6)
    assert frozen.per_image < flops.per_image / 2.5


def test_peaks() -> None:
    assert peak_flops(torch.device("cpu"), None) is None
    assert peak_flops(torch.device("cpu"), 2.0) == 2e12


def test_the_output_layer_counts_where_it_is_computed() -> None:
    flops = FlopsModel(10.0, 0.0, 0.0, head_per_token=4.0)
    assert flops.total(5, 0, 0) == 50
    assert flops.total(5, 0, 0, supervised=2) == 50 - 3 * 4
