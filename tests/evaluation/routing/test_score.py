"""Routing figures of made tokens: a planted router scores 1, a random one within its binomial interval."""

import math

import numpy as np
import pytest

from cambrian_gaze.evaluation.routing.measure import Judged
from cambrian_gaze.evaluation.routing.score import chance, score

REGIONS, KEPT, LAYERS, HEADS = 16, 2, (1, 3), 4


def judged(name: str, tokens: int, hits: np.ndarray, overlapping: int = 3, **more) -> Judged:
    values = {
        "id": name, "caption": "", "spans": [], "places": list(range(tokens)), "texts": [""] * tokens,
        "phrases": [0] * tokens, "kinds": [""] * tokens, "layers": list(LAYERS), "hits": hits,
        "share": hits.astype(float) / 2, "overlapping": np.full(tokens, overlapping), "regions": REGIONS,
        "kept": np.full((tokens, len(LAYERS)), KEPT), "log_probs": np.zeros(tokens), "drop": np.full(tokens, np.nan),
        "drop_others": np.full(tokens, np.nan), "absent": 0, "not_compared": 0,
    }  # fmt: skip
    return Judged(**(values | more))


def random_router(pictures: int, tokens: int, overlapping: int) -> list[Judged]:
    """K of R regions drawn for each token, layer and head; the first `overlapping` are the phrase's."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(pictures):
        order = rng.random((tokens, len(LAYERS), HEADS, REGIONS)).argsort(-1)[..., :KEPT]
        made.append(judged(f"{number}", tokens, (order < overlapping).any(-1), overlapping))
    return made


def test_a_planted_router_scores_one() -> None:
    figures = score([judged(str(n), 5, np.ones((5, len(LAYERS), HEADS), dtype=bool)) for n in range(4)])
    for layer in figures["layers"]:
        assert layer["mean_head"]["value"] == layer["any_head"]["value"] == 1 and layer["heads"] == [1] * HEADS
        assert layer["mean_head"]["ci95"] == [1, 1] and layer["mask_share"]["value"] == 0.5
        assert layer["random"]["mean"] < 0.8
    assert figures["any_head_any_layer"]["value"] == 1 and figures["counterfactual"] is None


@pytest.mark.parametrize("overlapping", [1, 3, 15, 16])
def test_a_random_router_scores_what_random_does(overlapping: int) -> None:
    made = random_router(40, 25, overlapping)
    figures, tokens = score(made), 40 * 25
    expected = 1 - math.comb(REGIONS - overlapping, KEPT) / math.comb(REGIONS, KEPT)
    assert chance(made[0], 0) == pytest.approx(expected)
    within = 3.5 * math.sqrt(expected * (1 - expected) / tokens) + 1e-12
    for layer in figures["layers"]:
        assert layer["random"]["expected"] == pytest.approx(expected)
        assert abs(layer["random"]["mean"] - expected) <= within
        assert all(abs(head - expected) <= within for head in layer["heads"])
        assert abs(layer["mean_head"]["value"] - expected) <= within / 2 + 1e-12
        assert layer["random_any_head"]["expected"] == pytest.approx(1 - (1 - expected) ** HEADS)
        assert layer["random_mask_share"] == KEPT / REGIONS
        low, high = layer["mean_head"]["ci95"]
        assert low <= layer["mean_head"]["value"] <= high


def test_the_best_head_is_named() -> None:
    hits = np.zeros((6, len(LAYERS), HEADS), dtype=bool)
    hits[:4, 1, 2] = True
    figures = score([judged("a", 6, hits), judged("b", 6, hits)])
    best = figures["best_head"]
    assert (best["layer"], best["head"], best["value"]) == (3, 2, pytest.approx(4 / 6))
    assert figures["layers"][1]["any_head"]["value"] == pytest.approx(4 / 6)
    assert figures["layers"][1]["mean_head"]["value"] == pytest.approx(1 / 6)


def test_pictures_are_drawn_for_each_seed() -> None:
    good, bad = np.ones((3, len(LAYERS), HEADS), dtype=bool), np.zeros((3, len(LAYERS), HEADS), dtype=bool)
    made = [judged(str(n), 3, good if n % 2 else bad) for n in range(10)]
    layer = score(made, seeds=5, pictures=3)["layers"][0]
    assert layer["mean_head"]["value"] == 0.5 and layer["mean_head"]["seeds"]["sd"] > 0
    assert score(made, seeds=5)["layers"][0]["mean_head"]["seeds"] == {"mean": 0.5, "sd": 0}
    with pytest.raises(ValueError, match="11 pictures are wanted, but there are 10"):
        score(made, pictures=11)


def test_falls_of_the_log_probability() -> None:
    hits = np.ones((2, len(LAYERS), HEADS), dtype=bool)
    made = [
        judged(str(n), 2, hits, drop=np.array([2.0, np.nan]), drop_others=np.array([0.5, np.nan]), not_compared=1)
        for n in range(3)
    ]
    figure = score(made)["counterfactual"]
    assert (figure["tokens"], figure["phrases_not_compared"]) == (3, 3)
    assert (figure["own"]["value"], figure["others"]["value"]) == (2.0, 0.5)
    assert figure["difference"] == {"value": 1.5, "ci95": [1.5, 1.5]}


def test_kinds_of_phrases_stand_apart() -> None:
    hits = np.zeros((4, len(LAYERS), HEADS), dtype=bool)
    hits[:2, 0, 1], hits[2:, 1, 3] = True, True
    kinds = score([judged("a", 4, hits, kinds=["x", "x", "y", "y"])])["kinds"]
    assert kinds["x"]["own_best_head"]["layer"] == 1 and kinds["x"]["own_best_head"]["head"] == 1
    assert kinds["y"]["own_best_head"]["layer"] == 3 and kinds["y"]["own_best_head"]["value"] == 1


def test_nothing_to_score_is_said() -> None:
    with pytest.raises(ValueError, match="no token of any caption"):
        score([judged("a", 0, np.zeros((0, len(LAYERS), HEADS), dtype=bool))])
