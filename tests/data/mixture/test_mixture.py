"""Recipes and mixtures: what they refuse, which rows they choose, and where row i of a mixture is."""

import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.mixture.mixture import ChosenRows, Mixture, MixtureDataset
from cambrian_gaze.data.mixture.recipe import Recipe, Source, load_recipe, recipe_of
from cambrian_gaze.data.mixture.recipe_file import RecipeError
from cambrian_gaze.data.mixture.sampling import Sampling
from cambrian_gaze.data.quarantine import Quarantined
from tests.data._stand_ins import turns, write_image, write_jsonl

RECIPES = Path(__file__).resolve().parents[3] / "data_recipes"


def data(folder: Path, name: str, count: int) -> Path:
    return write_jsonl(folder / name, [{"id": f"{name}:{i}", "conversations": turns("q", "a")} for i in range(count)])


def recipe(folder: Path, text: str) -> Path:
    file = folder / "mix.yaml"
    file.write_text(text)
    return file


def ids(mixture: Mixture) -> list[str]:
    return [mixture.records[source][row].id for source, row in map(mixture.locate, range(len(mixture)))]


@pytest.fixture
def folder(tmp_path):
    data(tmp_path, "a.jsonl", 10)
    data(tmp_path, "b.jsonl", 40)
    return tmp_path


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


@pytest.mark.parametrize("strategy", ["rand:5", "first:", "first:0", "random:101%", "end:1.5", "first:-1", "random:0%"])
def test_strategies_that_are_none(strategy):
    with pytest.raises(ValueError, match="is no sampling strategy|needs a"):
        Sampling.parse(strategy)


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


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "must hold a mapping with `datasets:`"),
        ("datasets: []", "lists no source"),
        ("dataset: [{path: a.jsonl}]", "unknown key 'dataset'; did you mean 'datasets'"),
        ("datasets: [a.jsonl]", "entry 1: 'a.jsonl' is no mapping; write `- path: a.jsonl`"),
        ("datasets: [{path: a.jsonl}, {pth: b}]", "entry 2: unknown key 'pth'; did you mean 'path'"),
        ("datasets: [{name: x}]", "entry 1: give `path`"),
        ("datasets: [{path: a, json_path: a}]", "entry 1: give `path`"),
        ("datasets: [{path: a, weight: two}]", "weight is 'two', not of type int or float"),
        ("datasets: [{path: a, weight: 0}]", "entry 1: weight is 0"),
        ("datasets: [{path: a, weight: .nan}]", "entry 1: weight is nan"),
        ("datasets: [{path: a, weight: true}]", "weight is True"),
        ("datasets: [{path: a, weight: 1, share: 10%}]", "`weight` or `share`, not both"),
        ("datasets: [{path: a, share: 120%}]", "entry 1: share is '120%'"),
        ("datasets: [{path: a, sampling_strategy: half}]", "entry 1: 'half' is no sampling strategy"),
        ("datasets: [{path: a, expected: {row: 3}}]", "entry 1, expected: unknown key 'row'; did you mean 'rows'"),
        ("datasets: [{path: a, name: x}, {path: b, name: x}]", "entry 2: the name 'x' is taken"),
        ("datasets: [{path: a, seed: 1}]", "unknown key 'seed'"),
        ("a: [", "is no YAML file"),
    ],
)
def test_recipes_that_are_refused(tmp_path, text, why):
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe(tmp_path, text))
    assert str(tmp_path / "mix.yaml") in str(caught.value) and why in str(caught.value)


def test_what_is_missing_is_named_with_its_entry(folder):
    file = recipe(folder, "datasets: [{path: a.jsonl}, {path: c.jsonl}]")
    with pytest.raises(RecipeError, match=r"mix\.yaml, entry 2: .*c\.jsonl does not exist; download it, or correct"):
        Mixture(load_recipe(file))
    with pytest.raises(RecipeError, match=r"mix\.yaml, entry 1: .*a\.jsonl: first:11 asks for 11 rows of 10"):
        Mixture(load_recipe(recipe(folder, "datasets: [{path: a.jsonl, sampling_strategy: 'first:11'}]")))
    with pytest.raises(RecipeError, match="cannot read the recipe .*none.yaml: No such file"):
        load_recipe(folder / "none.yaml")


def test_paths_start_from_the_root(folder, monkeypatch):
    monkeypatch.setenv("WHERE", str(folder))
    file = recipe(folder, "root: ../x\ndatasets: [{path: a.jsonl, image_folder: i}, {path: $WHERE/b.jsonl}]")
    first, second = load_recipe(file).sources
    assert first.path == str(folder.parent / "x" / "a.jsonl") and first.image_folder == str(folder.parent / "x" / "i")
    assert second.path == str(folder / "b.jsonl") and second.image_folder is None


def test_files_and_recipes_together(folder):
    file = recipe(folder, "datasets: [{path: a.jsonl, image_folder: own}]")
    found = recipe_of([file, folder / "a.jsonl", folder / "b.jsonl"], "images")
    assert [s.name for s in found.sources] == ["a", "a (2)", "b"]
    own = str(folder / "own")
    assert [(s.image_folder, s.video_folder) for s in found.sources] == [(own, own)] + [("images", "images")] * 2
    assert recipe_of([file], "images", "videos").sources[0].video_folder == "videos"
    assert recipe_of([file]).name == "mix" and recipe_of([file]).file == str(file)
    other = folder / "other.yaml"
    other.write_text("seed: 1\ndatasets: [{path: b.jsonl}]")
    with pytest.raises(RecipeError, match="have different seeds"):
        recipe_of([file, other])
    with pytest.raises(RecipeError, match="no data: name a recipe"):
        recipe_of([])


def test_prompt_options(folder):
    rows = [
        {"conversations": turns("q", "a", "r", "b")},
        {"conversations": turns("q", "a", system="own")},
        {"conversations": []},
    ]
    write_jsonl(folder / "p.jsonl", rows)
    file = recipe(folder, "datasets: [{path: p.jsonl, system_prompt: Be kind., prompt_suffix: Briefly.}]")
    records = Mixture(load_recipe(file)).records[0]
    assert records[0].conversations == turns("q", "a", "r\nBriefly.", "b", system="Be kind.")
    assert records[1].conversations == turns("q\nBriefly.", "a", system="own")
    assert [r.row for r in records[:2]] == [1, 2] and records.file.endswith("p.jsonl")
    with pytest.raises(ValueError, match="row 3: the conversation is empty"):
        records[2]


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


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_this_repository_are_well_formed(path):
    found = load_recipe(path)
    assert found.name == path.stem
    for source in found.sources:
        assert Path(source.path).parent == RECIPES.parent / "data" and source.is_missing()
        assert source.image_folder or source.video_folder or source.path.endswith(".parquet")


def test_published_counts_are_stated():
    (align,) = load_recipe(RECIPES / "cambrian_align.yaml").sources
    assert align.expected == {"rows": 2_513_164, "missing": 634_847}
    (video,) = load_recipe(RECIPES / "cambrian_s_20pct.yaml").sources
    assert video.expected == {"rows": 3_635_538} and str(video.sampling) == "random:20%"


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


def test_what_a_source_says_about_its_rows(tmp_path):
    rows = [{"talk": turns("<image>", "a"), "photo": "a.png", "begin": 3, "video": None}]
    rows += [
        {"talk": turns("<video>", "a"), "video": "clip", "begin": 3},
        {"talk": turns("<video>", "a"), "video": "c", "fps": 9},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    entry = "{path: a.jsonl, columns: {conversations: talk, image: photo}, ignore_keys: [begin], fps: 3}"
    mixture = Mixture(load_recipe(recipe(tmp_path, f"datasets: [{entry}]")))
    first, second, third = mixture.records[0]
    assert first.images == ["a.png"] and first.extra == {}
    assert second.video == "clip" and second.extra == {"fps": 3} and third.extra == {"fps": 9}
    plain = Mixture(load_recipe(recipe(tmp_path, "datasets: [{path: a.jsonl, columns: {conversations: talk}}]")))
    assert plain.records[0].identity() != mixture.records[0].identity()
    with pytest.raises(RecordError, match='the key "photo" looks like media'):
        plain.records[0][0]
    with pytest.raises(RecordError, match='"begin" .3. looks like a clip'):
        plain.records[0][1]


def test_declared_missing_follows_what_is_read(tmp_path):
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"conversations": turns("q", "a")}] * 40)
    entries = "[{path: a.jsonl, expected: {missing: 10}, sampling_strategy: 'random:50%', weight: 2}, {path: b.jsonl}]"
    assert Mixture(load_recipe(recipe(tmp_path, f"datasets: {entries}"))).expected_missing() == 10
