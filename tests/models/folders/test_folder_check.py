"""Hostile model folders: the first faulty file is named, and nothing of it is loaded."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cambrian_gaze.models.folders import folder_check
from cambrian_gaze.models.folders.folder_check import FolderError, check_files

JSON = sorted(folder_check._OBJECTS)
BROKEN: dict[str, Any] = {
    "empty": b"",
    "cut": b'{"a": ',
    "a list": b"[]",
    "null": b"null",
    "a number": b"3",
    "deep": b"[" * 100_000,
    "no UTF-8": b'{"a": "\xff\xfe"}',
}
HEADERS: dict[str, bytes] = {
    "empty": b"",
    "three bytes": b"abc",
    "a header of 2^63": struct.pack("<Q", 2**63) + b"{}",
    "longer than the file": struct.pack("<Q", 100) + b"{}",
    "no JSON": struct.pack("<Q", 2) + b"{{",
    "a list": struct.pack("<Q", 2) + b"[]",
    "a pointer of LFS": b"version https://git-lfs.github.com/spec/v1\n",
}
FIELDS: list[tuple[str, dict[str, Any]]] = [
    *(("config.json", {key: value}) for key in ("text_config", "vision_config", "gaze") for value in (3, "x", [1])),
    ("config.json", {"model_type": 3}),
    ("tokenizer.json", {"model": []}),
    ("tokenizer_config.json", {"added_tokens_decoder": "x"}),
    *(("generation_config.json", {"num_beams": value}) for value in (10**6, 0, -1, "4", 2.5, True, [1])),
    ("generation_config.json", {"num_return_sequences": 10**6}),
    *(("model.safetensors.index.json", {"weight_map": {"a": name}}) for name in ("../x", "/etc/passwd", "a/b", 3)),
    ("model.safetensors.index.json", {"weight_map": []}),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in JSON:
        (tmp_path / name).write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "cambrian_gaze", "gaze": {}, "text_config": None}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"num_beams": 4}))
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    (tmp_path / "notes.bin").write_bytes(b"x")
    check_files(tmp_path)
    return tmp_path


def refused(folder: Path, name: str) -> None:
    with pytest.raises(FolderError) as caught:
        check_files(folder)
    assert str(folder / name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize("name", JSON)
def test_broken_json(folder: Path, name: str, content: str) -> None:
    (folder / name).write_bytes(BROKEN[content])
    refused(folder, name)


@pytest.mark.parametrize("content", HEADERS)
def test_broken_weights(folder: Path, content: str) -> None:
    (folder / "model.safetensors").write_bytes(HEADERS[content])
    refused(folder, "model.safetensors")


@pytest.mark.parametrize(("name", "content"), FIELDS)
def test_wrong_fields(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(content))
    refused(folder, name)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja", "pytorch_model.bin"]
)
@pytest.mark.parametrize(
    "make",
    [os.mkfifo, Path.mkdir, lambda at: at.symlink_to("/dev/zero"), lambda at: at.symlink_to("nowhere")],
    ids=["a FIFO", "a folder", "a device", "a dead link"],
)
def test_only_regular_files_are_opened(folder: Path, name: str, make: Callable[[Path], None]) -> None:
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    refused(folder, name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "merges.txt"])
def test_sizes_are_checked_first(folder: Path, name: str) -> None:
    with (folder / name).open("wb") as file:
        file.truncate(2**40)
    refused(folder, name)


@pytest.mark.parametrize(
    "name", ["results.json", "train_log.txt", "logs.txt", "scheduler.bin", "consolidated.safetensors"]
)
def test_what_nothing_opens_is_no_fault(folder: Path, name: str) -> None:
    with (folder / name).open("wb") as file:
        file.truncate(2**40)
    check_files(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    check_files(folder)
    (folder / name).rmdir()
    (folder / name).symlink_to("nowhere")
    check_files(folder)
    with pytest.raises(FolderError):
        check_files(folder, copied="as it is")


def test_weights_of_any_name_are_looked_at_where_an_index_names_them(folder: Path) -> None:
    (folder / "some.safetensors").write_bytes(HEADERS["a header of 2^63"])
    check_files(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "some.safetensors"}}))
    refused(folder, "some.safetensors")


def test_links_out(folder: Path) -> None:
    """A model that is written anew takes no file along but those that are copied for it; weights are not."""
    outside = folder.parent / f"{folder.name}-outside"
    outside.mkdir()
    (folder / "model.safetensors").rename(outside / "weights")
    (folder / "model.safetensors").symlink_to(outside / "weights")
    check_files(folder)
    check_files(folder, copied="rewritten")
    with pytest.raises(FolderError, match=r"model\.safetensors is a link to .*weights, outside its folder"):
        check_files(folder, copied="as it is")
    (folder / "tokenizer.json").rename(outside / "secret")
    (folder / "tokenizer.json").symlink_to(outside / "secret")
    check_files(folder)
    with pytest.raises(FolderError, match=r"tokenizer\.json is a link to .*secret, outside its folder"):
        check_files(folder, copied="rewritten")


@pytest.mark.parametrize("within", [".", "sub", "a/b"])
def test_folders_of_a_snapshot_lead_to_its_blobs(folder: Path, within: str) -> None:
    root = folder.parent / f"{folder.name}-models--me--it"
    place, blobs = root / "snapshots" / "abc" / within, root / "blobs"
    for new in (place, blobs):
        new.mkdir(parents=True)
    for file in [path for path in folder.iterdir() if path.is_file()]:
        file.rename(blobs / file.name)
        (place / file.name).symlink_to(os.path.relpath(blobs / file.name, place))
    check_files(place, copied="as it is")
    (blobs / "config.json").rename(root / "config.json")
    (blobs / "config.json").symlink_to(root / "config.json")
    with pytest.raises(FolderError, match="outside its folder"):
        check_files(place, copied="as it is")


def test_json_is_read_once_while_it_stays_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = folder_check._read_json
    monkeypatch.setattr(folder_check, "_read_json", lambda path, size: read.append(path.name) or original(path, size))
    check_files(folder)
    assert read == [], "the fixture has looked at them"
    before = (folder / "tokenizer.json").stat()
    (folder / "tokenizer.json").write_text("[]")
    os.utime(folder / "tokenizer.json", ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):
        refused(folder, "tokenizer.json")
    assert read == ["tokenizer.json"] * 2
