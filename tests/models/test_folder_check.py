"""Hostile model folders: the first faulty file is named, and nothing of it is loaded."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cambrian_gaze.models import folder_check
from cambrian_gaze.models.folder_check import FolderError, check_files

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


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja", "x.bin"])
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
