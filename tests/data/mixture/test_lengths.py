"""Counted lengths are those of the samples, and are counted once."""

import json
import os

import numpy as np
import pytest

from cambrian_gaze.data.dataset import ConversationDataset, SampleOptions
from cambrian_gaze.data.media.video import FrameSampling
from cambrian_gaze.data.mixture import lengths
from cambrian_gaze.data.mixture.lengths import (
    BAD_RECORD,
    MISSING_VIDEO,
    UNCOUNTED,
    measure_mixture,
    measure_rows,
    table_place,
)
from cambrian_gaze.data.mixture.mixture import Mixture, MixtureDataset
from cambrian_gaze.data.mixture.recipe import recipe_of
from tests.data._stand_ins import turns, write_image, write_jsonl

SAMPLING = FrameSampling(video_max_frames=3)


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        write_image(tmp_path / "clip" / f"{i}.png", (0, 40 * i, 0))
    write_image(tmp_path / "red.png")
    return tmp_path


def rows() -> list[dict]:
    return [
        {"id": "t", "conversations": turns("q", "a")},
        {"id": "i", "image": "red.png", "conversations": turns("q <image>", "a longer answer")},
        {"id": "m", "image": ["red.png"] * 2, "conversations": turns("<image> or", "a", "<image>?", "b", system="s")},
        {"id": "v", "video": "clip", "conversations": turns("<video> q", "a")},
        {"id": "c", "video": "clip", "start_frame": 4, "conversations": turns("<video> q", "a")},
        {"id": "missing picture", "image": "none.png", "conversations": turns("<image>", "a")},
        {"id": "missing video", "video": "none", "conversations": turns("<video>", "a")},
        {"id": "bad", "conversations": turns("<image>", "a")},
    ]


def dataset(folder, processor, name="train.jsonl", **options) -> MixtureDataset:
    path = folder / name
    if not path.exists():
        write_jsonl(path, rows())
    return MixtureDataset(Mixture(recipe_of([path], folder)), processor, SampleOptions(sampling=SAMPLING, **options))


def test_lengths_are_those_of_the_samples(folder, processor):
    data = dataset(folder, processor, on_error="raise")
    measures = measure_mixture(data)
    assert measures.dtype == np.int32 and measures.shape == (8, 3)
    for row in range(5):
        sample = data[row]
        length, units, frames = measures[row].tolist()
        assert length == len(sample["input_ids"])
        assert units == len(sample.get("pixel_values", []))
        assert frames == {3: 3, 4: 2}.get(row, 0)
    assert measures[5].tolist() == measures[1].tolist()[:0] + [data.parts[0].measure(5).length, 1, 0]
    assert measures[6:, 0].tolist() == [MISSING_VIDEO, BAD_RECORD]


def test_rows_are_counted_once_and_only_those_that_are_read(folder, processor, monkeypatch):
    data = dataset(folder, processor)
    counted = []
    measure = ConversationDataset.measure
    monkeypatch.setattr(ConversationDataset, "measure", lambda self, row: counted.append(row) or measure(self, row))
    some = measure_rows(data.parts[0], np.array([3, 1, 3]))
    assert sorted(counted) == [1, 3] and some[0].tolist() == some[2].tolist()
    assert np.load(table_place(data.parts[0]))[:, 0].tolist().count(UNCOUNTED) == 6
    measure_mixture(data)
    assert sorted(counted) == list(range(8))
    assert measure_mixture(dataset(folder, processor)).tolist() == measure_mixture(data).tolist()
    assert len(counted) == 8
    measure_mixture(data, retry=True)
    assert counted[8:] == [6]


def test_a_table_belongs_to_all_that_its_counts_depend_on(folder, processor):
    place = table_place(dataset(folder, processor).parts[0])
    assert os.path.dirname(place) == str(folder) and os.path.basename(place).startswith(".train.jsonl.")
    data = dataset(folder, processor).parts[0]
    data.options = SampleOptions(sampling=FrameSampling(video_max_frames=4))
    elsewhere = dataset(folder, processor).parts[0]
    elsewhere.video_folder = folder / "clip"
    places = {place, table_place(data), table_place(elsewhere)}
    write_jsonl(folder / "train.jsonl", rows()[:4])
    places.add(table_place(dataset(folder, processor).parts[0]))
    assert len(places) == 4


def test_workers_and_interruptions_change_nothing(folder, processor, monkeypatch):
    many = [row for _ in range(90) for row in rows()]
    write_jsonl(folder / "many.jsonl", many)
    monkeypatch.setattr(lengths, "_IN_PROCESS", 100)
    monkeypatch.setattr(lengths, "_STORE_SECONDS", 0.0)
    data = dataset(folder, processor, "many.jsonl")
    write = lengths._write
    monkeypatch.setattr(lengths, "_write", lambda *args: write(*args) or pytest.fail("interrupted"))
    with pytest.raises(pytest.fail.Exception):
        measure_mixture(data, workers=2)
    kept = np.load(table_place(data.parts[0]))
    assert (kept[:256] != UNCOUNTED).any(1).all() and (kept[256:] == UNCOUNTED).all()
    monkeypatch.setattr(lengths, "_write", write)
    assert measure_mixture(data, workers=2).tolist() == measure_mixture(dataset(folder, processor)).tolist() * 90


def test_a_damaged_table_is_counted_anew(folder, processor):
    data = dataset(folder, processor)
    good = measure_mixture(data)
    with open(table_place(data.parts[0]), "r+b") as stream:
        stream.truncate(100)
    assert measure_mixture(data).tolist() == good.tolist()


def test_tables_and_prompts_are_told_apart(tmp_path, processor):
    datasets = pytest.importorskip("datasets")
    rows = [{"id": "t", "conversations": turns("q", "a")}, {"id": "u", "conversations": turns("q", "a longer one")}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    recipe = {"path": "rows.parquet", "system_prompt": "Answer."}
    (tmp_path / "said.yaml").write_text(json.dumps({"datasets": [recipe]}))
    plain, said = (
        MixtureDataset(Mixture(recipe_of([tmp_path / name])), processor) for name in ("rows.parquet", "said.yaml")
    )
    for data in (plain, said):
        assert measure_mixture(data)[:, 0].tolist() == [len(data[row]["input_ids"]) for row in range(2)]
    assert (measure_mixture(said)[:, 0] > measure_mixture(plain)[:, 0]).all()
