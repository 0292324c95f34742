"""Quantiles and bins from counts, against numpy on the values themselves."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cambrian_gaze.data.inspect.stats import aspect_ratios, doubling_bins, even_bins, statistics, summary, used_share
from cambrian_gaze.data.inspect.survey import Facts


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=300))
def test_summary_and_bins_agree_with_the_values(values):
    counts = Counter(values)
    numbers = summary(counts)
    assert numbers["count"] == len(values) and numbers["min"] == min(values) and numbers["max"] == max(values)
    for name, share in (("p5", 0.05), ("median", 0.5), ("p99", 0.99)):
        assert numbers[name] == np.quantile(values, share, method="inverted_cdf")
    bins = doubling_bins(counts)
    assert [one["from"] for one in bins] == [0, *(64 << i for i in range(len(bins) - 1))]
    for one in bins:
        assert one["samples"] == sum(one["from"] <= value < one["to"] for value in values)
    assert bins[-1]["to"] > max(values) and (len(bins) == 1 or bins[-1]["samples"])
    assert sum(even_bins(counts, [0, 100, 5000])) == len(values)


def test_nothing_gives_nothing():
    assert summary({}) == {} and doubling_bins({}) == [] and used_share(Facts()) is None
    assert statistics(Facts())["tokens"] == {}


def test_shapes():
    facts = Facts(sizes=Counter({(200, 100): 3, (100, 100): 1}))
    assert aspect_ratios(facts) == {2.0: 3, 1.0: 1} and used_share(facts) == 0.625
    assert statistics(facts)["longer_side_px"]["median"] == 200


def test_facts_add_up():
    whole = Facts(rows=2, lengths=Counter({5: 1}))
    whole.add(Facts(rows=3, bad_rows=1, lengths=Counter({5: 2, 7: 1}), problems=Counter(missing=1)))
    assert (whole.rows, whole.bad_rows, whole.lengths, whole.problems["missing"]) == (5, 1, {5: 3, 7: 1}, 1)
