"""Numbers written for people."""

import pytest

from cambrian_gaze.bench.pages import rows as of


@pytest.mark.parametrize(
    ("us", "text"),
    [(27.7, "28 µs"), (3.52, "3.5 µs"), (934.6, "935 µs"), (999.9, "1 ms"), (1234, "1.2 ms"), (4e7, "40 s"), (0, "0")],
)
def test_durations(us: float, text: str) -> None:
    assert of.duration(us) == text


def test_bytes_counts_and_spans() -> None:
    assert [of.size(n) for n in (5, 2**10, 126.3 * 2**20, 2**30 * 1.5)] == ["5 B", "1 KiB", "126 MiB", "1.5 GiB"]
    assert [of.count(n) for n in (576, 4608, 36_864, 5e6)] == ["576", "4.6K", "37K", "5M"]
    assert of.span([3.21, 14.4]) == "3.2–14×" and of.span([2.0, 2.01], " ms") == "2 ms"


def test_speed_says_losses_as_plainly_as_wins() -> None:
    assert of.speed([1.0, 4.0]) == "1–4× as fast as dense"
    assert of.speed([0.27, 0.88]) == "**slower than dense**, 0.27–0.88× of its speed"
    assert of.speed([0.5, 2, 3]) == "0.5–3× of dense's speed, **slower in 1 of 3 cases**"


def test_a_line_takes_the_fastest_form_and_the_exponent_its_last_two_points() -> None:
    rows = [{"n": 4, "median_us": 9}, {"n": 2, "median_us": 5}, {"n": 2, "median_us": 3}, {"n": 1, "median_us": None}]
    assert list(of.line(rows, "n").items()) == [(2, 3), (4, 9)]
    assert of.exponent({1: 1, 2: 3, 4: 12}) == pytest.approx(2) and of.exponent({1: 1}) is None
    assert of.select(rows, n=2) == rows[1:3] and of.select(rows, n=1) == []
