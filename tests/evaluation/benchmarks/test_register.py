"""A benchmark of one's own: registered, found, answered and scored, without a change of the package."""

import dataclasses
import doctest
import json

import pytest

from cambrian_gaze.evaluation.benchmarks import (
    BENCHMARKS,
    SUITES,
    Benchmark,
    BenchmarkSource,
    find,
    register_benchmark,
)
from cambrian_gaze.evaluation.benchmarks.declare import NUMBER, TEXT, both
from cambrian_gaze.evaluation.doctor import examine
from cambrian_gaze.evaluation.results import read_results, write_scores
from tests.evaluation._runs import LENGTH, evaluate


@pytest.fixture(autouse=True)
def _as_before():
    before = dict(BENCHMARKS)
    yield
    BENCHMARKS.clear()
    BENCHMARKS.update(before)


def says_something(answer, target):
    return float(len(answer) >= target["least"])


def toy(**changes) -> Benchmark:
    values = {
        "name": "toy",
        "title": "Toy",
        "source": BenchmarkSource("me/toy", "test"),
        "fields": {"question": TEXT, "least": NUMBER},
        "ask": lambda row, protocol: [row["question"]],
        "target": lambda row, protocol: {"answer": "anything", "least": row["least"]},
        "score": both(says_something),
        "rows": 4,
        "samples": 4,
        "max_new_tokens": LENGTH,
    }
    return Benchmark(**values | changes)


@pytest.fixture
def toy_root(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data" / "me" / "toy"
    folder.mkdir(parents=True)
    rows = [{"question": f"What is {n}?", "least": least} for n, least in enumerate((0, 0, 0, 10_000))]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


def test_a_registered_benchmark_is_answered_and_scored(tiny, toy_root, tmp_path):
    assert register_benchmark(toy()) is register_benchmark(BENCHMARKS["toy"])
    assert [one.name for one in find(["toy", "mme"])] == ["toy", "mme"]
    assert examine(BENCHMARKS["toy"], str(toy_root))[:2] == ([], 4)
    assert evaluate(tiny, toy_root, tmp_path / "run", ["toy"]) == {}
    results = read_results(tmp_path / "run")
    assert {name: result.status for name, result in results.items()} == {
        "toy.cambrian": "complete",
        "toy.official": "complete",
    }
    scores = json.loads(write_scores(tmp_path / "run", results).read_text())
    assert scores["toy.cambrian"]["value"] == scores["toy.official"]["value"] == 75.0
    answers = (tmp_path / "run" / "answers" / "toy.cambrian.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in answers] == [f"What is {n}?" for n in range(4)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Toy!"}, "no name of a benchmark; use small letters"),
        ({"name": "mme"}, "'mme' already"),
        ({"name": "image"}, "'image' already"),
        ({"column": "mme_p"}, "'mme_p' already"),
        ({"score": {"cambrian": says_something}}, "has scorers for cambrian; each of cambrian, official"),
        ({"fields": {"question": "string"}}, "field 'question' is 'string'; kinds are text"),
    ],
)
def test_what_cannot_be_registered_is_refused(changes, message):
    before = dict(BENCHMARKS)
    with pytest.raises(ValueError, match=message):
        register_benchmark(dataclasses.replace(toy(), **changes))
    assert before == BENCHMARKS and "toy" not in SUITES


def test_the_example_runs():
    example = doctest.DocTestFinder().find(register_benchmark, "register_benchmark")
    (test,) = [one for one in example if one.examples]
    assert doctest.DocTestRunner().run(test).failed == 0
    assert BENCHMARKS["street_signs"].title == "Street signs"
