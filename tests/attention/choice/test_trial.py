"""Backends tried side by side: which are dropped, and why; what is right is not; nothing is left behind."""

import dataclasses

import pytest
import torch

from cambrian_gaze.attention import BACKENDS, Backend, Heads
from cambrian_gaze.attention.choice import trial
from cambrian_gaze.attention.choice.trial import REFERENCE, Timing, fastest, row_error, try_all
from cambrian_gaze.attention.masked import MaskedAttention
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from tests._layouts import build, draw_case
from tests.attention._run import context
from tests.attention._toys import CPU, LAYOUT_CONFIG, Toy, ToyClock, few_tokens, toys

HEADS = Heads(4, 2, 8)


def tried(names, *, gradients=True, dtype=torch.float32, clock=None, config=LAYOUT_CONFIG, floor=None, **timing):
    clock = clock or ToyClock()
    candidates = toys(clock, names)
    outcomes = try_all(
        few_tokens(config),
        HEADS,
        CPU,
        dtype,
        candidates,
        gradients=gradients,
        floor=floor,
        timing=Timing(timer=clock.time, **timing),
    )
    return {o.name: o for o in outcomes}


def test_the_fastest_of_those_that_agree_is_taken():
    outcomes = tried(["slow", "fast", "wrong"])
    assert list(outcomes) == [REFERENCE, "slow", "fast", "wrong"]
    assert fastest(list(outcomes.values())).name == "fast"
    assert outcomes["fast"].error < 1e-6 and outcomes["fast"].layer_us == 10
    assert fastest(list(tried(["slow", "wrong"]).values())).name == REFERENCE


@pytest.mark.parametrize("name", ["wrong", "wrong gradient", "wrong in a row", "not finite", "leaks a region"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_disagrees_is_dropped_however_fast(name, dtype):
    outcomes = tried([name], dtype=dtype)
    assert outcomes[name].cost_us is None and outcomes[name].layer_us is None
    assert f"differs from {REFERENCE}" in outcomes[name].reason
    assert fastest(list(outcomes.values())).name == REFERENCE


def test_a_wrong_gradient_matters_in_training_alone():
    outcomes = tried(["wrong gradient"], gradients=False)
    assert outcomes["wrong gradient"].reason is None


def test_what_goes_wrong_with_many_regions_is_dropped_where_training_begins_with_them():
    assert tried(["wrong with many regions"])["wrong with many regions"].reason is None
    assert "differs" in tried(["wrong with many regions"], floor=0.9)["wrong with many regions"].reason


def test_what_fails_is_dropped_with_its_reason():
    outcomes = tried(["raises", "out of memory", "fails when timed", "refuses", "fast"])
    assert outcomes["raises"].reason == "NotImplementedError: no such kernel"
    assert outcomes["out of memory"].reason == "out of memory"
    assert outcomes["fails when timed"].reason == "RuntimeError: the second call"
    assert outcomes["refuses"].reason == "not here"
    lasting = {name for name, outcome in outcomes.items() if not outcome.transient}
    assert lasting == {REFERENCE, "refuses", "fast"}, "memory and whatever raised may be otherwise next time"
    assert fastest(list(outcomes.values())).name == "fast"


def test_what_has_no_gradients_is_for_calls_without():
    assert tried(["forward only"])["forward only"].reason == "no gradients on cpu"
    assert tried(["forward only"], gradients=False)["forward only"].layer_us is not None


def test_nothing_is_begun_after_the_time():
    clock = ToyClock()
    outcomes = tried(["fast", "slow"], clock=clock, now=iter([0.0, 1.0, 99.0]).__next__, seconds=20.0)
    assert outcomes["fast"].layer_us is not None
    assert outcomes["slow"].reason == "no time left of 20 s" and outcomes["slow"].transient and "slow" not in clock.ran


def test_a_reference_that_fails_ends_the_trial():
    clock = ToyClock()
    candidates = toys(clock, ["fast", "raises"])
    candidates[REFERENCE] = dataclasses.replace(candidates["raises"], name=REFERENCE)
    (only,) = try_all(few_tokens(LAYOUT_CONFIG), HEADS, CPU, torch.float32, candidates, gradients=True)
    assert only.name == REFERENCE and only.reason and fastest([only]) is None


@pytest.mark.parametrize("name", ["fast", "wrong", "raises", "out of memory"])
def test_nothing_is_left_behind(name):
    """Random numbers, gradients' mode and autocast, and tensors."""
    import gc

    torch.manual_seed(5)
    before, weight = torch.get_rng_state(), torch.ones(1, requires_grad=True)
    gc.collect()
    held = sum(torch.is_tensor(x) for x in gc.get_objects())
    with torch.autocast("cpu", torch.bfloat16):
        tried([name, "draws random numbers"])
        assert (weight * 2).requires_grad and torch.is_autocast_enabled("cpu")
    assert torch.equal(torch.get_rng_state(), before)
    gc.collect()
    assert sum(torch.is_tensor(x) for x in gc.get_objects()) <= held


def test_autocast_does_not_change_the_dtype_that_is_tried():
    clock = ToyClock()
    with torch.autocast("cpu", torch.bfloat16):
        tried(["fast"], clock=clock)
    assert clock.dtypes == {torch.float32}


def test_without_gradients_under_inference_mode():
    with torch.inference_mode():
        assert tried(["fast"], gradients=False)["fast"].layer_us == 10


def test_each_backend_gets_its_own_name_and_a_layer_that_routes():
    clock = ToyClock()
    tried(["fast", "slow"], clock=clock, config=dataclasses.replace(LAYOUT_CONFIG, dense_layers=(0, 1, 3)))
    assert clock.layers == {2}
    assert clock.configured == {REFERENCE, "fast", "slow"}


RIGHT = {name: BACKENDS[name] for name in (REFERENCE, "varlen_reference")}


@pytest.mark.parametrize("seed", range(24))
def test_what_is_right_agrees_to_rounding(seed):
    """Packs, padding, descriptors, granularities and pools as they are drawn: all get the same regions."""
    case = draw_case(seed, visual_queries="causal")
    ctx, heads = context(case.batch.layout(), case.config), Heads(case.heads, case.kv_heads, 8)
    outcomes = try_all(
        ctx, heads, CPU, torch.float64, RIGHT, gradients=True, floor=0.9, timing=Timing(timer=lambda call, device: 1.0)
    )
    assert [o.reason for o in outcomes] == [None, None]
    assert outcomes[1].error < 1e-11


def test_near_ties_are_no_defect():
    """While they are compared, all are handed one choice; while they are timed, each chooses for itself."""

    def attend(whole, q, k, v, ctx, *layer):
        if not isinstance(ctx, trial._Told):
            raise RuntimeError("chose by itself")
        return whole.attend(q, k, v, ctx, *layer)

    told = Backend("told", lambda ctx: Toy(MaskedAttention.of(ctx), attend))
    candidates = {REFERENCE: BACKENDS[REFERENCE], "told": told}
    _, told = try_all(few_tokens(LAYOUT_CONFIG), HEADS, CPU, torch.float32, candidates, gradients=True)
    assert told.error == 0 and told.reason == "RuntimeError: chose by itself"


def test_rows_are_judged_by_themselves():
    want = torch.ones(1, 1, 4, 2)
    want[..., 0, :] *= 100
    real = torch.tensor([[True, True, True, False]])
    got = want.clone()
    got[..., 3, :] = torch.nan
    assert row_error(got, want, real) == 0
    got[..., 1, :] *= 1.1
    assert row_error(got, want, real) == pytest.approx(0.1)
    got[..., 0, 0] = torch.inf
    assert row_error(got, want, real) == torch.inf
    want[..., 2, :] = 0
    assert row_error(want + 1e-9, want, real) < 1e-7


def test_what_is_derived_once_is_shared_among_layers():
    outcome = trial.Outcome("x", 0.0, layer_us=10.0, prepare_us=64.0)
    assert outcome.cost_us == 12.0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
def test_on_a_gpu_all_that_run_agree(dtype, granularity):
    """By rows, flex, varlen and Triton against each other: outputs and gradients, most regions kept as well; packs,
    left padding and several frames."""
    device = torch.device("cuda")
    config = GazeConfig(image=RegionBudget((1, 6, 6), keep_ratio=0.125), head_granularity=granularity)
    video, text = ("video", (3, 24, 24)), ("text", (70,))
    shapes = {
        "one sample": ([[[("text", (5,)), video, text]]], False),
        "padded": ([[[("text", (5,)), video, text]], [[("image", (1, 24, 24)), text]]], True),
        "packed": ([[[("text", (5,)), ("image", (1, 24, 24)), text], [("image", (1, 12, 24)), text]]], False),
    }
    able = {name: b for name, b in BACKENDS.items() if not b.only_for_tests and not b.refuses(config, device, dtype)}
    assert {"masked", "flex", "triton"} <= able.keys()
    for name, (samples, left) in shapes.items():
        layout = build(samples, config, left=left).layout().to(device)
        ctx, heads = context(layout, config), Heads(8, 2, 64)
        outcomes = try_all(ctx, heads, device, dtype, able, gradients=True, floor=0.9, timing=Timing(120.0))
        print(name, *outcomes, sep="\n")
        assert not {o.name: o.reason for o in outcomes if o.reason}, name
