"""Recipes: what they refuse, where their paths start, what they say about the rows of a source."""

from pathlib import Path

import pytest

from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.mixture.mixture import Mixture
from cambrian_gaze.data.mixture.recipe import load_recipe, recipe_of
from cambrian_gaze.data.mixture.recipe_file import RecipeError
from tests.data._stand_ins import turns, write_jsonl
from tests.data.mixture._recipes import recipe

RECIPES = Path(__file__).resolve().parents[3] / "data_recipes"


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
