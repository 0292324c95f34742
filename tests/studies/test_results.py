"""Seeds of several runs and machines come together in one file, and only those of the same study."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from cambrian_gaze.studies.results import add_seed, earlier_seeds, read_results

STUDY = {
    "study": "small", "title": "Small", "models": {"one": {"region_size": (1, 2, 2)}}, "against": "dense",
    "arms": [{"name": "dense", "title": "dense", "x": None}],
}  # fmt: skip
ENTRY = {"arms": {"dense": {"right": {"hop": ["10", "11"]}}}}


def test_runs_beside_each_other_lose_no_seed(tmp_path):
    path = tmp_path / "new" / "small-cpu.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: add_seed(path, STUDY, seed, ENTRY), range(12)))
    there = read_results(path)
    assert list(there["seeds"]) == [str(seed) for seed in range(12)], "in their order, 10 after 9"
    assert there["seeds"]["11"] == ENTRY and there["title"] == "Small"
    assert [one.name for one in path.parent.iterdir()] == ["small-cpu.json"]


def test_a_seed_takes_the_place_of_its_earlier_run(tmp_path):
    path = tmp_path / "small-cpu.json"
    for text in ("00", "11"):
        for seed in (0, 1):
            add_seed(path, STUDY | {"title": text}, seed, {"arms": {"dense": {"right": {"hop": [text]}}}})
    there = read_results(path)
    assert there["title"] == "11" and {
        seed["arms"]["dense"]["right"]["hop"][0] for seed in there["seeds"].values()
    } == {"11"}


@pytest.mark.parametrize(
    ("name", "value", "same"),
    [
        ("title", "Other words", True),
        ("arms", [{"name": "dense", "title": "others", "x": 8.0}], True),
        ("models", {"one": {"region_size": (1, 4, 4)}}, False),
        ("arms", [{"name": "dense", "title": "dense", "x": None, "gaze": {"top_k": 2}}], False),
        ("versions", {"torch": "1"}, False),
    ],
)
def test_seeds_of_another_study_are_refused(tmp_path, name, value, same):
    path = tmp_path / "small-cpu.json"
    add_seed(path, STUDY, 0, ENTRY)
    before = path.read_text()
    if same:
        add_seed(path, {**STUDY, name: value}, 1, ENTRY)
        assert list(read_results(path)["seeds"]) == ["0", "1"]
        return
    for use in (lambda other: earlier_seeds(path, other), lambda other: add_seed(path, other, 1, ENTRY)):
        with pytest.raises(
            ValueError, match=f"another small: {name} differ. Move the file away, or .* --results FOLDER"
        ):
            use({**STUDY, name: value})
    assert path.read_text() == before


def test_what_is_no_study_is_refused(tmp_path):
    path = tmp_path / "small-cpu.json"
    path.write_text(json.dumps({"seeds": {}}))
    with pytest.raises(ValueError, match="holds no results of a study"):
        earlier_seeds(path, STUDY)
