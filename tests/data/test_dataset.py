"""From files to samples; what cannot be read is set aside, in the main process and in workers."""

import json

import pytest
import torch
from torch.utils.data import DataLoader

from cambrian_gaze.data import conversation, encode
from cambrian_gaze.data import dataset as dataset_module
from cambrian_gaze.data.collator import Collator
from cambrian_gaze.data.conversation import render
from cambrian_gaze.data.dataset import ConversationDataset, SampleOptions
from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.media.image_files import MediaError
from cambrian_gaze.data.media.video import FrameSampling
from cambrian_gaze.data.quarantine import Quarantined, QuarantineLog, read_quarantine
from cambrian_gaze.data.records.records import read_records
from tests.data._stand_ins import turns, write_bad_images, write_image, write_jsonl

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def folder(tmp_path):
    write_image(tmp_path / "images" / "red.png", RED)
    write_image(tmp_path / "images" / "blue.png", BLUE)
    for i in range(6):
        write_image(tmp_path / "images" / "clip" / f"{i}.png", (0, 40 * i, 0))
    return tmp_path


def dataset(folder, processor, rows, **options) -> ConversationDataset:
    records = read_records(write_jsonl(folder / "train.jsonl", rows))
    chosen = {name: options.pop(name) for name in ("video_folder", "quarantine") if name in options}
    return ConversationDataset(records, processor, folder / "images", options=SampleOptions(**options), **chosen)


def channel_means(sample) -> list[list[int]]:
    return ((sample["pixel_values"].mean((2, 3)) + 1) * 127.5).round().int().tolist()


def test_text_image_images_and_video(folder, processor):
    rows = [
        {"id": "t", "conversations": turns("q", "a")},
        {"id": "i", "image": "red.png", "conversations": turns("q <image>", "a")},
        {"id": "s", "image": ["blue.png", "red.png"], "conversations": turns("<image> or", "a", "<image>?", "b")},
        {"id": "v", "video": "clip", "image": "red.png", "conversations": turns("<video> like <image>", "a")},
        {"id": "l", "video": ["clip/5.png", "clip/0.png"], "conversations": turns("<image>\nq", "a")},
    ]
    text, image, several, video, frames = dataset(
        folder, processor, rows, on_error="raise", sampling=FrameSampling(video_max_frames=3)
    )
    assert set(text) == {"id", "source", "file", "row", "input_ids", "labels", "mm_token_type_ids"}
    assert text["id"] == "t" and text["file"].endswith("train.jsonl") and text["row"] > 0
    assert text["input_ids"].dtype == text["labels"].dtype == text["mm_token_type_ids"].dtype == torch.int64
    assert channel_means(image) == [[255, 0, 0]] and image["grid_thw"].tolist() == [[1, 2, 3]]
    assert image["pixel_values"].shape == (1, 3, 8, 8) and image["pixel_values"].dtype == torch.float32
    assert channel_means(several) == [[0, 0, 255], [255, 0, 0]] and several["grid_thw"].tolist() == [[1, 2, 3]] * 2
    assert channel_means(video) == [[0, 0, 0], [0, 80, 0], [0, 200, 0], [255, 0, 0]]
    assert video["grid_thw"].tolist() == [[3, 2, 3], [1, 2, 3]]
    assert channel_means(frames) == [[0, 200, 0], [0, 0, 0]] and frames["grid_thw"].tolist() == [[2, 2, 3]]
    assert frames["mm_token_type_ids"].bincount().tolist()[1:] == [0, 12, 4]


def test_a_video_folder_of_its_own(folder, processor):
    write_image(folder / "videos" / "v" / "1.png", BLUE)
    rows = [{"video": "v", "image": "red.png", "conversations": turns("<image><video>", "a")}]
    sample = dataset(folder, processor, rows, video_folder=folder / "videos")[0]
    assert channel_means(sample) == [[255, 0, 0], [0, 0, 255]]


def bad_rows(folder) -> tuple[list, list[str]]:
    """Rows that are refused, and what each message says."""
    images = write_bad_images(folder / "images")
    images = {name: reason for name, reason in images.items() if "\ud800" not in name}
    rows: list = [{"id": name, "image": name, "conversations": turns("<image>", "a")} for name in images]
    reasons = list(images.values())
    for row, reason in [
        ({"conversations": []}, "the conversation is empty"),
        ({"conversations": turns("q", "a")[::-1]}, "roles are out of order"),
        ({"images": "red.png", "conversations": turns("q", "a")}, '0 <image> .* 1 images .*under "images"'),
        ({"image": "red.png", "conversations": turns("<image><image>", "a")}, "2 <image> .* 1 images"),
        ({"image": "red.png", "conversations": turns("<image>", "<image>")}, "holds the placeholder <image>"),
        ({"video": "missing", "conversations": turns("<video>", "a")}, "'missing' cannot be found"),
        ({"video": "clip", "fps": -1, "conversations": turns("<video>", "a")}, "-1 frames per second"),
        ({"image": "red.png", "conversations": turns("<image>" + 99 * "x", "a")}, "exceed max_length 60"),
        (["no", "object"], "a JSON list, not an object"),
    ]:
        rows.append(row)
        reasons.append(reason)
    return rows, reasons


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_every_bad_record_is_set_aside_with_file_row_and_remedy(folder, processor):
    rows, reasons = bad_rows(folder)
    log = folder / "quarantine.jsonl"
    data = dataset(folder, processor, rows, max_length=60, quarantine=QuarantineLog(log))
    strict = dataset(folder, processor, rows, max_length=60, on_error="raise")
    file = str(folder / "train.jsonl")
    for index, reason in enumerate(reasons):
        message = rf"^{file}, row {index + 1}: .*{reason}.*Remedy: .+"
        with pytest.raises(RecordError, match=message):
            strict[index]
        item = data[index]
        assert isinstance(item, Quarantined) and (item.file, item.row) == (file, index + 1)
        with pytest.raises(RecordError, match=message):
            raise RecordError(item.reason)
        assert data[index] == item
    assert [entry["row"] for entry in read_quarantine(log)] == [*range(1, len(rows) + 1)]
    assert len(log.read_text().splitlines()) == len(rows)
    assert read_quarantine(log)[0]["id"] == rows[0]["id"]


def test_errors_of_the_disk_are_set_aside_and_errors_of_the_program_are_not(folder, processor, monkeypatch):
    rows = [{"image": "red.png", "conversations": turns("<image>", "a")}]
    data = dataset(folder, processor, rows)

    def broken(error):
        def load(*_):
            raise error

        monkeypatch.setattr("cambrian_gaze.data.dataset.load_image", load)

    broken(OSError(5, "Input/output error"))
    assert "row 1: its media cannot be read" in data[0].reason and "Remedy: check the disk" in data[0].reason
    broken(TypeError("a bug"))
    with pytest.raises(TypeError, match="a bug"):
        data[0]


def test_overlong_samples_can_be_cut(folder, processor):
    rows = [{"image": "red.png", "conversations": turns("<image>", "a" * 99)}]
    assert isinstance(dataset(folder, processor, rows, max_length=60)[0], Quarantined)
    sample = dataset(folder, processor, rows, max_length=60, overlong="truncate_text")[0]
    assert len(sample["input_ids"]) == len(sample["labels"]) == 60


@pytest.mark.parametrize("option", ["overlong", "on_error"])
def test_unknown_options(folder, processor, option):
    with pytest.raises(ValueError, match=f"{option}='ignore' is unknown; use one of quarantine"):
        dataset(folder, processor, [{"conversations": turns("q", "a")}], **{option: "ignore"})


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_workers_go_on_and_log_each_bad_record_once(folder, processor):
    good = {"id": "good", "image": "blue.png", "conversations": turns("<image>", "a")}
    bad = {"id": "bad", "image": "none.png", "conversations": turns("<image>", "a")}
    log = folder / "quarantine.jsonl"
    data = dataset(folder, processor, [good, bad, good, bad, bad, bad], quarantine=QuarantineLog(log))
    for _ in range(2):
        batches = list(DataLoader(data, batch_size=2, num_workers=2, collate_fn=Collator(pad_token_id=0)))
        assert [batch["num_quarantined"] for batch in batches] == [1, 1, 2]
        assert [len(batch["input_ids"]) for batch in batches] == [1, 1, 1]
        assert (batches[2]["labels"] == -100).all() and "pixel_values" not in batches[2]
    assert sorted(json.loads(line)["row"] for line in log.read_text().splitlines()) == [2, 4, 5, 6]


def test_strict_errors_arrive_from_workers(folder, processor):
    rows = [{"image": "none.png", "conversations": turns("<image>", "a")}]
    loader = DataLoader(dataset(folder, processor, rows, on_error="raise"), num_workers=1, collate_fn=list)
    with pytest.raises(MediaError, match=r"train\.jsonl, row 1: 'none\.png' cannot be found"):
        list(loader)


@pytest.mark.parametrize("overlong", ["quarantine", "fewer_frames"])
def test_a_sample_is_rendered_and_tokenised_once(folder, processor, monkeypatch, overlong):
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return render(*arguments)

    monkeypatch.setattr(encode, "render", counted)
    for module in (conversation, dataset_module):
        monkeypatch.setattr(module, "render", counted, raising=False)
    rows = [{"video": "clip", "image": "red.png", "conversations": turns("<video> like <image>", "a")}]
    length = len(dataset(folder, processor, rows, on_error="raise")[0]["input_ids"])
    calls.clear()
    limit = length - 1 if overlong == "fewer_frames" else length
    sample = dataset(folder, processor, rows, on_error="raise", max_length=limit, overlong=overlong)[0]
    assert len(sample["input_ids"]) <= limit and ("overlong" in sample) == (overlong == "fewer_frames")
    assert len(calls) == 1
