"""Accuracies, intervals over seeds and questions, paired differences."""

import numpy as np
import pytest

from cambrian_gaze.studies.statistics import difference, estimate, families, seen, two_level_draws


def results(*seeds):
    """Arm → right values of `hop`, by seed."""
    return {
        "seeds": {
            str(number): {
                "arms": {arm: {"right": {"hop": texts}, "visible": 8 + number} for arm, texts in arms.items()}
            }
            for number, arms in enumerate(seeds)
        }
    }


def test_an_accuracy_is_over_values_of_all_seeds():
    found = estimate(results({"a": ["110", "000"]}, {"a": ["111", "111"]}), "a", "hop")
    assert found.value == 8 / 12 and found.by_seed == (1 / 3, 1.0) and found.n == 12
    assert found.low <= 1 / 3 and found.high == 1.0


def test_places_cut_the_answers():
    raw = results({"a": ["100", "111"]})
    assert estimate(raw, "a", "hop", slice(0, 1)).value == 1.0
    assert estimate(raw, "a", "hop", slice(1, None)).value == 0.5
    with pytest.raises(ValueError, match="no answer of hop"):
        estimate(raw, "a", "hop", slice(3, None))


def test_intervals_know_that_seeds_differ():
    rng = np.random.default_rng(0)
    same = [(rng.binomial(8, 0.5, 100).astype(float), np.full(100, 8.0)) for _ in range(5)]
    apart = [(rng.binomial(8, p, 100).astype(float), np.full(100, 8.0)) for p in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert two_level_draws(same).std() < 0.03 < 0.1 < two_level_draws(apart).std()
    assert (two_level_draws(apart) == two_level_draws(apart)).all()


def test_differences_are_paired():
    texts = [f"{number % 2}" * 4 for number in range(40)]
    better = [text if number else "1111" for number, text in enumerate(texts)]
    found = difference(results({"a": better, "b": texts}), "a", "b", "hop")
    assert found.value == pytest.approx(1 / 40) and found.low >= 0 and found.high < 0.1
    assert found.p == 1.0  # one question alone says nothing
    clear = difference(results({"a": ["1111"] * 40, "b": texts}), "a", "b", "hop")
    assert clear.value == 0.5 and clear.p < 0.001
    assert difference(results({"a": texts, "b": texts}), "a", "b", "hop").p == 1.0


def test_families_and_means_over_seeds():
    raw = results({"a": ["1"]}, {"a": ["0"]})
    assert families(raw) == ["hop"] and seen(raw, "a", "visible") == 8.5
