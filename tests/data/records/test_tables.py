"""Parquet, Arrow and saved datasets as records, at random and as streams; pictures inside the table."""

import io
import json

import pytest
from PIL import Image

from cambrian_gaze.data.dataset import ConversationDataset, SampleOptions
from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.mixture.mixture import Mixture
from cambrian_gaze.data.mixture.recipe import load_recipe, recipe_of
from cambrian_gaze.data.mixture.recipe_file import RecipeError
from cambrian_gaze.data.records.tables import TableRecords, TableStream, is_table
from tests.data._stand_ins import turns

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


def png(color) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(stream, "PNG")
    return stream.getvalue()


def rows(start, stop):
    image = {"bytes": png((255, 0, 0)), "path": None}
    return [
        {"id": str(i), "image": image if i % 2 else None, "talk": turns("<image>q" if i % 2 else "q", f"a{i}")}
        for i in range(start, stop)
    ]


@pytest.fixture
def folder(tmp_path):
    """Two shards of 10 rows in small row groups."""
    for number in range(2):
        table = pa.Table.from_pylist(rows(10 * number, 10 * number + 10))
        parquet.write_table(table, tmp_path / f"{number}.parquet", row_group_size=4)
    return tmp_path


COLUMNS = {"conversations": "talk"}


def test_every_kind_of_table_gives_the_same_records(folder, tmp_path_factory):
    saved = tmp_path_factory.mktemp("saved")
    table = datasets.Dataset.from_list(rows(0, 20))
    table.save_to_disk(saved / "disk")
    (arrow,) = (saved / "disk").glob("*.arrow")
    for path in (str(folder), str(saved / "disk"), str(arrow), f"hub:{folder}"):
        assert is_table(path)
        records = TableRecords(path, COLUMNS)
        assert len(records) == 20 and [r.id for r in records] == [str(i) for i in range(20)]
        assert [r.row for r in records[18:]] == [19, 20] == records.row_numbers()[18:].tolist()
        assert records[3].images == [png((255, 0, 0))] and records[2].images == [] and records[2].extra == {}
        assert records[-1].conversations == turns("<image>q", "a19") and records[0].file == path
        with pytest.raises(IndexError, match="record 20 of 20"):
            records[20]


def test_pictures_in_the_table_become_samples(folder, processor):
    data = ConversationDataset(TableRecords(str(folder), COLUMNS), processor, options=SampleOptions(on_error="raise"))
    assert "pixel_values" not in data[0]
    assert ((data[1]["pixel_values"].mean((2, 3)) + 1) * 127.5).round().int().tolist() == [[255, 0, 0]]
    path = folder / "bad.parquet"
    bad = [{"image": {"bytes": b"no picture", "path": "x.png"}, "talk": turns("<image>", "a")}]
    parquet.write_table(pa.Table.from_pylist(bad), path)
    bad = ConversationDataset(TableRecords(str(path), COLUMNS), processor, options=SampleOptions(on_error="raise"))
    with pytest.raises(RecordError, match="bad.parquet, row 1: 'a picture in the table' is not an image"):
        bad[0]


def test_what_cannot_be_read_says_why(folder):
    with pytest.raises(RecordError, match="no column 'conversations'.*columns: .*the table has id, image, talk"):
        TableRecords(str(folder / "0.parquet"))
    (folder / "cut.parquet").write_bytes((folder / "0.parquet").read_bytes()[:200])
    with pytest.raises(RecordError, match="cut.parquet cannot be opened as a table"):
        TableRecords(str(folder / "cut.parquet"), COLUMNS)
    with pytest.raises(RecordError, match="cannot be opened as a table"):
        TableRecords(f"hub:{folder}/none", COLUMNS)


def test_the_splits_of_a_folder_are_not_mixed(tmp_path, caplog):
    def write(file, *ids):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        one = [{"id": name, "conversations": turns("q", "a")} for name in ids]
        parquet.write_table(pa.Table.from_pylist(one), tmp_path / file)

    def ids(folder, **options):
        named = [record.id for record in TableRecords(str(tmp_path / folder), **options)]
        assert [r.id for r in TableStream(str(tmp_path / folder), **options)] == named
        return named

    write("hub/data/train-00000-of-00001.parquet", "a", "b")
    write("hub/data/test_sft-00000-of-00001.parquet", "c")
    write("hub/.cache/x.parquet", "hidden")
    assert ids("hub") == ["a", "b"] and ids("hub", split="test_sft") == ["c"]
    assert "1 files of the split train are read, not 1 of test_sft" in caplog.text
    with pytest.raises(
        RecordError, match="hub has no split 'val' but test_sft, train. Remedy: choose one: `split: NAME`"
    ):
        ids("hub", split="val")
    write("parts/a_val/train-00000-of-00001.parquet", "a")
    write("parts/b/train-00000-of-00001.parquet", "b")
    write("parts/b/val/0.parquet", "c")
    assert ids("parts") == ["a", "b"] and ids("parts", split="validation") == ["c"]
    write("one/data/test-00000-of-00001.parquet", "a")
    write("one/data/test-00001-of-00001.parquet", "b")
    assert ids("one") == ["a", "b"] == ids("one", split="test")
    write("plain/a.parquet", "a")
    write("plain/b.parquet", "b")
    assert ids("plain") == ["a", "b"]


def test_a_saved_dataset_dict_has_splits(tmp_path):
    tables = {name: datasets.Dataset.from_list(rows(0, n)) for name, n in (("train", 3), ("test", 2))}
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "saved")
    assert len(TableRecords(str(tmp_path / "saved"), COLUMNS)) == 3
    assert len(TableRecords(str(tmp_path / "saved"), COLUMNS, split="test")) == 2
    with pytest.raises(RecordError, match="has no split 'dev' but test, train"):
        TableRecords(str(tmp_path / "saved"), COLUMNS, split="dev")


def test_config_and_split_without_effect_are_refused(folder):
    with pytest.raises(RecordError, match="split is 'test', and .*0.parquet is a single table"):
        TableRecords(str(folder / "0.parquet"), COLUMNS, split="test")
    with pytest.raises(RecordError, match="config is 'en', and .* is no hub dataset.*name the folder"):
        TableRecords(str(folder), COLUMNS, config="en")
    (folder / "a.json").write_text(json.dumps([{"conversations": turns("q", "a")}]))
    for given in ("split: test", "config: en"):
        (folder / "recipe.yaml").write_text(f"datasets:\n  - path: a.json\n    {given}\n")
        with pytest.raises(RecipeError, match="entry 1: .*a.json is no table; drop `config` and `split`"):
            Mixture(load_recipe(folder / "recipe.yaml"))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_stream_goes_on_exactly_where_it_was(folder, world_size):
    seen = []
    for rank in range(world_size):
        share = {"rank": rank, "world_size": world_size}
        whole = [r.id for r in TableStream(str(folder), COLUMNS, **share)]
        for stop in (1, 5, len(whole)):
            stream = TableStream(str(folder), COLUMNS, **share)
            reader = iter(stream)
            before = [next(reader).id for _ in range(stop)]
            state = json.loads(json.dumps(stream.state()))
            again = TableStream(str(folder), COLUMNS, **share)
            again.resume(state)
            assert before + [r.id for r in again] == whole
            assert [r.id for r in again] == whole, "the next epoch begins at the beginning"
        seen += whole
    assert sorted(seen, key=int) == [str(i) for i in range(20)]


def test_a_stream_of_another_number_of_ranks_is_refused(folder):
    state = TableStream(str(folder), COLUMNS).state()
    with pytest.raises(ValueError, match="1 ranks read the stream when it was saved, now there are 2"):
        TableStream(str(folder), COLUMNS, world_size=2).resume(state)


def test_tables_in_recipes(folder):
    file = folder / "recipe.yaml"
    entry = "datasets:\n  - {path: 0.parquet, columns: {conversations: talk}, prompt_suffix: Be brief."
    file.write_text(entry + ", sampling_strategy: 'first:3'}")
    mixture = Mixture(load_recipe(file))
    assert len(mixture) == 3 and mixture.records[0][2].conversations[0]["value"] == "q\nBe brief."
    file.write_text(entry + ", streaming: true}")
    (source,) = load_recipe(file).sources
    asked = [r.conversations[0]["value"] for r in source.stream()]
    assert asked[:2] == ["q\nBe brief.", "<image>q\nBe brief."]
    with pytest.raises(RecipeError, match="entry 1: .*is streamed, and this needs random access"):
        Mixture(recipe_of([file]))
    file.write_text(entry + ", streaming: true, weight: 2}")
    with pytest.raises(RecipeError, match="a stream is read whole"):
        load_recipe(file).sources[0].stream()
