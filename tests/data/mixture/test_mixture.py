"""Mixtures: which rows they choose, and where row i of a mixture is."""

import json
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambrian_gaze.data.mixture.mixture import ChosenRows, Mixture, MixtureDataset
from cambrian_gaze.data.mixture.recipe import Recipe, Source, load_recipe, recipe_of
from cambrian_gaze.data.mixture.recipe_file import RecipeError
from cambrian_gaze.data.mixture.sampling import Sampling
from cambrian_gaze.data.quarantine import Quarantined
from tests.data._stand_ins import turns, write_image, write_jsonl
from tests.data.mixture._recipes import ids, recipe


@pytest.mark.parametrize(
    ("strategy", "chosen"),
    [
        ("all", range(10)),
        ("first:3", range(3)),
        ("first:25%", range(3)),
        ("end:4", range(6, 10)),
        ("end:10%", [9]),
        ("random:100%", range(10)),
    ],
)
def test_strategies_choose(strategy, chosen):
    rows = ChosenRows(10, Sampling.parse(strategy), 1.0, [0])
    assert rows.rows(np.arange(len(rows))).tolist() == list(chosen)


def test_a_random_part_is_drawn_without_repetition_and_by_the_seed():
    def drawn(seed):
        rows = ChosenRows(1000, Sampling.parse("random:20%"), 1.0, seed)
        return rows.rows(np.arange(len(rows))).tolist()

    assert len(set(drawn([0, 1]))) == 200 and drawn([0, 1]) == drawn([0, 1]) == sorted(drawn([0, 1]))
    assert drawn([0, 1]) != drawn([0, 2]) and max(drawn([0, 1])) > 900


@given(
    num_rows=st.integers(1, 50),
    strategy=st.sampled_from(["all", "first:1", "end:50%", "random:30%"]),
    weight=st.floats(0.05, 3.5),
)
def test_weights_see_each_row_that_often(num_rows, strategy, weight):
    sampling = Sampling.parse(strategy)
    part = sampling.part_of(num_rows)
    rows = ChosenRows(num_rows, sampling, weight, [0])
    counts = Counter(rows.rows(np.arange(len(rows))).tolist())
    assert len(rows) == int(weight + 1e-9) * part + min(part, round((weight - int(weight + 1e-9)) * part))
    assert all(count in (int(weight), int(weight) + 1) for count in counts.values()) and len(counts) <= part
    if weight >= 1:
        assert len(counts) == part


def test_a_mixture_lists_its_sources_one_after_the_other(folder):
    file = recipe(
        folder,
        "seed: 3\ndatasets:\n  - {json_path: a.jsonl, weight: 2.5}\n"
        "  - {json_path: b.jsonl, sampling_strategy: 'end:4', name: tail}\n",
    )
    mixture = Mixture(recipe_of([file], "images"))
    assert mixture.source_names == ["a", "tail"] and mixture.counts == [25, 4] and len(mixture) == 29
    found = ids(mixture)
    assert found[:20] == [f"a.jsonl:{i}" for i in range(10)] * 2 and len(set(found[20:25])) == 5
    assert found[25:] == [f"b.jsonl:{i}" for i in range(36, 40)]
    sources, rows = mixture.locate_all(np.arange(29))
    assert [mixture.locate(i) for i in range(29)] == list(zip(sources.tolist(), rows.tolist(), strict=True))
    assert ids(pickle.loads(pickle.dumps(mixture))) == found == ids(Mixture(recipe_of([file], "images")))
    for index in (-1, 29):
        with pytest.raises(IndexError, match="of a mixture of 29"):
            mixture.locate(index)


def test_shares(folder):
    file = recipe(folder, "datasets:\n  - path: b.jsonl\n  - {path: a.jsonl, share: 50%}\n")
    mixture = Mixture(load_recipe(file))
    assert mixture.counts == [40, 40] and set(Counter(ids(mixture)[40:]).values()) == {4}
    file = recipe(folder, "datasets:\n  - {path: b.jsonl, share: 0.25}\n  - {path: a.jsonl, share: 75%}\n")
    mixture = Mixture(load_recipe(file))
    assert mixture.counts == [3, 10] and max(Counter(ids(mixture)).values()) == 1, "no row twice"
    for text, why in (
        ("[{path: b.jsonl, share: 60%}, {path: a.jsonl, share: 30%}]", "together 90.0%"),
        ("[{path: b.jsonl, share: 100%}, {path: a.jsonl}]", "shares of 100% leave nothing"),
    ):
        with pytest.raises(RecipeError, match=f"mix.yaml: .*{why}"):
            Mixture(load_recipe(recipe(folder, f"datasets: {text}")))


def test_a_draw_does_not_depend_on_the_other_sources(folder):
    entry = "  - {path: b.jsonl, sampling_strategy: 'random:25%'}\n"
    alone = ids(Mixture(load_recipe(recipe(folder, "datasets:\n" + entry))))
    beside = ids(Mixture(load_recipe(recipe(folder, "datasets:\n  - path: a.jsonl\n" + entry))))
    assert beside[10:] == alone


def test_samples_come_from_the_folder_of_their_source(folder, processor):
    for name, color in (("one", (255, 0, 0)), ("two", (0, 0, 255))):
        write_image(folder / name / "x.png", color)
        write_jsonl(folder / f"{name}.jsonl", [{"id": name, "image": "x.png", "conversations": turns("<image>", "a")}])
    write_jsonl(folder / "bad.jsonl", [{"conversations": turns("<image>", "a")}])
    text = "datasets: [{path: one.jsonl, image_folder: one}, {path: two.jsonl}, {path: bad.jsonl}]"
    found = recipe_of([recipe(folder, text)], folder / "two")
    one, two, bad = MixtureDataset(Mixture(found), processor)
    means = [((s["pixel_values"].mean((0, 2, 3)) + 1) * 127.5).round().int().tolist() for s in (one, two)]
    assert means == [[255, 0, 0], [0, 0, 255]] and [one["source"], two["source"]] == ["one", "two"]
    assert isinstance(bad, Quarantined) and bad.source == "bad"


class _SevenMillion:
    """Stands for an index of seven million rows."""

    def __len__(self) -> int:
        return 7_000_000


def test_seven_million_rows_take_no_memory_until_they_are_drawn(monkeypatch):
    monkeypatch.setattr(Source, "records", lambda self: _SevenMillion())
    everything = Source("a", "a.jsonl")
    fifth = Source("b", "b.jsonl", sampling=Sampling.parse("random:20%"))
    mixture = Mixture(Recipe("r", None, (everything, fifth)))
    assert len(mixture) == 8_400_000
    arrays = [chosen._drawn.nbytes + chosen._more.nbytes for chosen in mixture._chosen if chosen._drawn is not None]
    assert len(arrays) == 1 and sum(arrays) == 8 * 1_400_000
    sources, rows = mixture.locate_all(np.arange(8_399_990, 8_400_000))
    assert set(sources.tolist()) == {1} and rows.max() < 7_000_000 and json.dumps(mixture.locate(7_000_000))


def test_declared_missing_follows_what_is_read(tmp_path):
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"conversations": turns("q", "a")}] * 40)
    entries = "[{path: a.jsonl, expected: {missing: 10}, sampling_strategy: 'random:50%', weight: 2}, {path: b.jsonl}]"
    assert Mixture(load_recipe(recipe(tmp_path, f"datasets: {entries}"))).expected_missing() == 10
