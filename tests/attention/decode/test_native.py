"""The compiled decoding step against plain torch in float64, on random shapes, in every build that runs here."""

import ctypes
import logging
import shutil
import time
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from cambrian_gaze.attention.context import Seen
from cambrian_gaze.attention.decode import native as decode_native
from cambrian_gaze.attention.decode import reference as decode_torch
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.descriptors import region_scores
from cambrian_gaze.gaze.layout import IMAGE, VIDEO
from cambrian_gaze.gaze.routing import choose_from, pools

BUILDS = decode_native._builds()
EVERYTHING = Seen(None, None)
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def compiled():
    if decode_native.missing() and shutil.which("c++") is None:
        pytest.skip(decode_native.missing())


@pytest.fixture(params=BUILDS)
def build(request, monkeypatch):
    """One build, as on a processor for which it is the best."""
    monkeypatch.setattr(decode_native, "_builds", lambda: (request.param,))
    decode_native._library.cache_clear()
    yield request.param
    decode_native._library.cache_clear()


@dataclass
class Layer:
    """One layer of a cache, with room for more pages and columns than there are."""

    keys: torch.Tensor
    values: torch.Tensor
    flat: torch.Tensor
    num_regions: int
    columns: int
    descriptors: torch.Tensor

    @property
    def page_keys(self):
        return self.keys[:, :, : self.num_regions]

    @property
    def page_values(self):
        return self.values[:, :, : self.num_regions]

    @property
    def text_context_keys(self):
        return self.flat[0][:, :, : self.columns]

    @property
    def text_context_values(self):
        return self.flat[1][:, :, : self.columns]

    def page_rows(self):
        slots, dim = self.keys.shape[3:]
        return self.keys.view(-1, slots * dim), self.values.view(-1, slots * dim), self.keys.shape[2]

    def gather_pages(self, chosen):
        row, group = (torch.arange(n) for n in chosen.shape[:2])
        at = row[:, None, None], group[None, :, None], chosen
        return self.keys[at], self.values[at]

    def rows(self, index):
        return Layer(*(x[index] for x in (self.keys, self.values)), self.flat[:, index], self.num_regions, self.columns,
                     self.descriptors[index])  # fmt: skip

    def double(self):
        both = (x.double() for x in (self.keys, self.values, self.flat))
        return Layer(*both, self.num_regions, self.columns, self.descriptors)


def draw(seed, dtype, **fixed):
    """A random case: queries [B, G, n, D], layer, masks, pools of one or two modalities, granularity."""
    generator = torch.Generator().manual_seed(seed)
    pick = lambda name, *choices: fixed.get(name, choices[torch.randint(len(choices), (), generator=generator)])  # noqa: E731
    batch, groups, heads = pick("batch", 1, 2, 3), pick("groups", 1, 2, 8), pick("heads", 1, 2, 3, 4, 5, 7, 9)
    dim, slots, columns = pick("dim", 16, 64, 80, 128), pick("slots", 1, 4, 9, 36, 70), pick("columns", 1, 5, 100)
    regions, granularity = pick("regions", 1, 3, 16, 50), pick("granularity", "q_head", "kv_group")
    normal = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    pages = [normal(batch, groups, regions + 2, slots, dim) for _ in range(2)]
    flat = normal(2, batch, groups, columns + 3, dim)
    layer = Layer(*pages, flat, regions, columns, pages[0][:, :, :regions].float().mean(3).contiguous())
    some = lambda *shape: torch.rand(shape, generator=generator) < 0.7  # noqa: E731
    budgets = {"image": RegionBudget((1, 2, 2), keep_ratio=pick("keep", 0.1, 0.3, 0.9))}
    if pick("two pools", True, False):
        budgets["video"] = RegionBudget((1, 2, 2), top_k=2)
    kind = torch.where(some(batch, regions), IMAGE, VIDEO)
    offered = some(batch, 1, regions) if pick("hides", True, False) else torch.ones(batch, 1, regions).bool()
    config = GazeConfig(head_granularity=granularity, **budgets)
    competing = pools(offered, SimpleNamespace(region_modality=kind), config)
    masks = Seen(some(batch, regions * slots), some(batch, columns))
    masks[1][:, -1] = True  # the query sees itself
    return SimpleNamespace(q=normal(batch, groups, heads, dim), layer=layer, masks=masks, pools=competing,
                           selections=1 if granularity == "kv_group" else heads, granularity=granularity)  # fmt: skip


def expected(case, regions):
    """(output, slots that entered the softmax) of `decode_torch` in float64."""
    out, allowed = decode_torch.attend(case.q.double(), case.layer.double(), case.masks, regions, 0.3)
    return out, allowed.sum(-1)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("seed", range(24))
def test_equals_float64(seed, dtype, build):
    case = draw(seed, dtype)
    heads_first = case.q.flatten(1, 2)[:, :, None]
    scores = region_scores(heads_first, case.layer.descriptors, "mean", case.granularity)
    want_regions = choose_from(scores, case.pools)
    out, visual, regions = decode_native.choose_and_attend(
        case.q, case.layer, case.masks, case.pools, case.selections, 0.3
    )
    assert torch.equal(regions, want_regions)
    want, want_visual = expected(case, regions)
    assert out.dtype == dtype and torch.allclose(out.double(), want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert torch.equal(visual, want_visual)
    again, visual = decode_native.attend(case.q, case.layer, case.masks, regions, 0.3)
    assert torch.equal(again, out) and torch.equal(visual, want_visual)
    every, visual = decode_native.attend(case.q, case.layer, case.masks, None, 0.3)
    want, want_visual = expected(case, None)
    assert torch.allclose(every.double(), want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert torch.equal(visual, want_visual)


@pytest.mark.parametrize("seed", range(10))
def test_neither_threads_nor_other_rows_change_a_bit(seed, build):
    case = draw(seed, torch.float32, batch=3, regions=200, slots=9, keep=0.9)
    arguments = EVERYTHING, case.pools, case.selections, 0.3
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        want = decode_native.choose_and_attend(case.q, case.layer, *arguments)
        for number in (2, 5):
            torch.set_num_threads(number)
            for _ in range(3):
                forget_load(build)
                got = decode_native.choose_and_attend(case.q, case.layer, *arguments)
                assert all(torch.equal(*both) for both in zip(got, want, strict=True))
    finally:
        torch.set_num_threads(threads)
    for row in range(3):
        index = torch.tensor([row])
        out, _ = decode_native.attend(case.q[index], case.layer.rows(index), EVERYTHING, want[2][index], 0.3)
        assert torch.equal(out, want[0][index])


RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
TEAM = ctypes.CFUNCTYPE(None, RUN, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)


def forget_load(build):
    decode_native._open(build).gaze_decode_forget_load()


def test_a_team_that_keeps_the_caller_waiting_is_left_alone_for_a_while(build, monkeypatch):
    """As where another process has the core of one of the threads, and the end of the parallel region waits for it."""
    asked, late = [], 0.02

    @TEAM
    def team(run, work, threads, flags):
        asked.append(threads)
        run(work)
        if late:
            time.sleep(late)

    monkeypatch.setattr(decode_native, "_run_parallel", lambda: ctypes.cast(team, ctypes.c_void_p).value)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    case = draw(3, torch.float32, batch=3, groups=8, dim=128, regions=50, slots=36)
    step = partial(decode_native.attend, case.q, case.layer, EVERYTHING, None, 0.3)
    forget_load(build)
    want, _ = step()
    assert len(asked) >= 1 and set(asked) == {4}
    pauses, begin, steps = [], time.perf_counter(), 0
    while time.perf_counter() - begin < 0.6:
        before, steps = len(asked), steps + 1
        assert torch.equal(step()[0], want)
        if len(asked) > before:
            pauses.append(time.perf_counter() - begin)
    assert 1 <= len(pauses) <= 5 < steps, "pauses of 20, 40, 80, … ms"
    late = 0.0
    for _ in range(20):  # the load of this machine may make a team slow that is not
        forget_load(build)
        asked.clear()
        for _ in range(5):
            step()
        if len(asked) >= 5:
            return
    raise AssertionError("a team that is quick was not asked again")


def test_large_and_wide_scores(build):
    """Scores far apart: weights that vanish, and a peak that rises late."""
    case = draw(0, torch.float32, batch=1, regions=50, slots=36, heads=4, dim=64)
    case.q *= 100
    out, _ = decode_native.attend(case.q, case.layer, EVERYTHING, None, 0.3)
    case.masks = Seen(*map(torch.ones_like, case.masks))
    assert torch.allclose(out.double(), expected(case, None)[0], atol=1e-4)
    case.q[:, :, 0] = torch.nan
    out, _ = decode_native.attend(case.q, case.layer, EVERYTHING, None, 0.3)
    assert out[:, :, 0].isnan().all() and out[:, :, 1:].isfinite().all()


def test_bf16_is_rounded_as_torch_rounds_it(build):
    """The mean of two neighbours lies halfway between them: to the even one."""
    case = draw(0, torch.bfloat16, batch=1, groups=1, heads=1, dim=16, slots=1, regions=1, columns=2)
    neighbours = 1 + torch.arange(16) / 128  # 16 of bf16, side by side
    case.layer.flat[1, 0, 0, 0], case.layer.flat[1, 0, 0, 1] = neighbours, neighbours + 1 / 128
    alone = Seen(torch.zeros(1, 1, dtype=torch.bool), None)  # no page, both columns
    out, _ = decode_native.attend(torch.zeros_like(case.q), case.layer, alone, None, 0.3)
    want = (case.layer.text_context_values[0, 0].float().sum(0) / 2).bfloat16()
    assert torch.equal(out.view(16), want)


def test_what_it_does_not_take():
    take = lambda heads, dim, dtype: decode_native.takes(torch.zeros(1, 2, heads, dim, dtype=dtype))  # noqa: E731
    assert take(4, 128, torch.float32) and take(64, 16, torch.bfloat16)
    assert not take(65, 128, torch.float32) and not take(4, 72, torch.float32)
    assert not take(4, 128, torch.float64) and not take(4, 128, torch.float16)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("_path", lambda build: None, "without a C++ compiler"),
        ("_checksum", lambda: 0, "another version"),
        ("_open", lambda build: decode_native.ctypes.CDLL(__file__), "for another system"),
    ],
)
def test_where_it_is_missing_plain_torch_serves_and_says_so(name, value, reason, monkeypatch, caplog):
    monkeypatch.setattr(decode_native, name, value)
    decode_native._library.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not any(decode_native.takes(torch.zeros(1, 2, 4, 128)) for _ in range(2))
    decode_native._library.cache_clear()
    assert caplog.text.count(reason) == 1


def test_it_was_compiled():
    """Where there is a compiler, an installation has every build of this processor, of this source."""
    assert decode_native.missing() is None
    assert all(decode_native._path(build) for build in BUILDS)
