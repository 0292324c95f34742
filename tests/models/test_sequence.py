"""Sequence parallelism: two ranks that share a batch have the loss and the gradients of one rank that has it alone."""

from pathlib import Path

import pytest
import torch

from tests.models._sequence import CASES, RESULT, rank_main, refuse_main, step
from tests.training._ranks import launch

JOBS = [
    *((case, "image", False, True) for case in CASES),
    *((case, "video", False, True) for case in ("dense", "routed", "kv_group", "pre_rope", "varlen")),
    *((case, kind, True, True) for case in ("routed", "trained tower") for kind in ("image", "video")),
    ("routed", "packed", False, True),
    ("routed", "text", False, True),
    ("trained tower", "text", True, True),
    ("routed", "image", False, False),
]
"""(case, batch, gradient checkpointing, skip_logits). All in float64 but for the norms and the loss, which the decoder
and transformers compute in float32."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict]]:
    folder = tmp_path_factory.mktemp("shared")
    assert launch(2, rank_main, JOBS, 2, str(folder), timeout=120) == [0, 0]
    return [torch.load(folder / RESULT.format(rank), weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("number", range(len(JOBS)), ids=[f"{c}, {k}, {g}, {s}" for c, k, g, s in JOBS])
def test_two_ranks_are_one(shared: list[list[dict]], number: int) -> None:
    case, kind, checkpointing, skip = JOBS[number]
    want = step(case, kind, checkpointing=False, group=None, skip=skip)
    for got in (ranks[number] for ranks in shared):
        assert got["loss"].item() == pytest.approx(want["loss"].item(), rel=1e-6)
        assert got["grads"].keys() == want["grads"].keys()
        for name, grad in want["grads"].items():
            same = torch.allclose(got["grads"][name], grad, rtol=1e-5, atol=1e-7)
            assert same, f"{name}: off by up to {(got['grads'][name] - grad).abs().max():.2g}"
        assert got["ranked"] == want["ranked"], "regions are ranked once per layer and step, not again"
        assert vars(got["gaze"]) == pytest.approx(vars(want["gaze"]))
    if kind == "text":
        assert all((g == 0).all() for n, g in want["grads"].items() if "projector" in n or "tower" in n)


def test_a_group_refuses_a_cache_and_heads_that_do_not_divide(tmp_path: Path) -> None:
    assert launch(2, refuse_main, str(tmp_path), timeout=60) == [0, 0]
    for rank in range(2):
        cache, heads = (tmp_path / f"said{rank}").read_text().splitlines()
        assert "without sequence_group" in cache
        assert "4 query heads and 1 key-value heads" in heads and "divide both: none" in heads
