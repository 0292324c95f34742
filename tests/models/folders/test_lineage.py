"""Lineage files: fingerprints that follow the tensors and nothing else, and descent over generations."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cambrian_gaze.models.folders.lineage import (
    LINEAGE,
    data_recipe,
    lines,
    parent,
    read_lineage,
    weights_digest,
    without_places,
    write_lineage,
)


def checkpoint(folder: Path, **tensors: torch.Tensor) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def test_the_digest_is_of_tensors_not_of_files(tmp_path: Path) -> None:
    a, b = torch.arange(4.0), torch.ones(2, 3, dtype=torch.bfloat16)
    whole = checkpoint(tmp_path / "whole", a=a, b=b)
    save_file({"extra": a}, whole / "mm_projector.safetensors")
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    save_file({"b": b}, sharded / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    save_file({"a": a}, sharded / "model-00002-of-00002.safetensors")
    weight_map = {"b": "model-00001-of-00002.safetensors", "a": "model-00002-of-00002.safetensors"}
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert weights_digest(whole) == weights_digest(sharded) == weights_digest(whole / "model.safetensors")
    for other in ({"a": a, "c": b}, {"a": a + 1, "b": b}, {"a": a, "b": b.view(3, 2)}, {"a": a, "b": b.half()}):
        file = tmp_path / "other.safetensors"
        save_file(other, file)
        assert weights_digest(file) != weights_digest(whole)


def test_descent_over_three_generations(tmp_path: Path) -> None:
    first = checkpoint(tmp_path / "first", a=torch.zeros(2))
    write_lineage(first, "train, stage 1, step 3", data=data_recipe({"max_length": 9}, ["some/recipe"]))
    second = checkpoint(tmp_path / "second", a=torch.ones(2))
    plain = checkpoint(tmp_path / "plain", a=torch.ones(1))
    parents = [parent("model", first), parent("vision tower", plain), parent("language model", "Qwen/Qwen3-4B")]
    write_lineage(second, "train, stage 2, step 5", parents)
    third = checkpoint(tmp_path / "third", a=torch.ones(2).half())
    write_lineage(third, "export, bf16", [parent("model", second)])

    lineage = read_lineage(third)
    of_second = lineage["parents"][0]["lineage"]
    assert of_second == read_lineage(second)
    assert of_second["parents"][0]["lineage"]["weights"] == weights_digest(first)
    assert of_second["parents"][1]["weights"] == weights_digest(plain)
    text = "\n".join(lines(lineage))
    for said in ("export, bf16", "step 5", "step 3", "some/recipe", "not known: a name on the hub", "cambrian-gaze 0."):
        assert said in text
    assert "        made by   train, stage 1" in text, "a generation per indentation"


def test_the_recipe_does_not_depend_on_where_files_lie(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_text("one")
    here = data_recipe({"fps": 1.0}, [tmp_path / "here" / "a.jsonl"])["recipe"]
    assert here == data_recipe({"fps": 1.0}, [tmp_path / "there" / "a.jsonl"])["recipe"]
    assert here != data_recipe({"fps": 2.0}, [tmp_path / "here" / "a.jsonl"])["recipe"]
    (tmp_path / "there" / "a.jsonl").write_text("two")
    assert here != data_recipe({"fps": 1.0}, [tmp_path / "there" / "a.jsonl"])["recipe"]


def test_other_eyes_see_no_places(tmp_path: Path) -> None:
    first = checkpoint(tmp_path / "first", a=torch.zeros(2))
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_text(folder)
    files = [tmp_path / "here" / "a.jsonl", tmp_path / "there" / "a.jsonl", tmp_path / "gone.jsonl"]
    kept = write_lineage(first, "train", [parent("model", tmp_path / "absent")], data_recipe({"fps": 1}, files))
    second = checkpoint(tmp_path / "second", a=torch.ones(2))
    names = [parent("model", first), parent("language model", "Qwen/Qwen3-4B"), parent("tower", "../siglip")]
    whole = write_lineage(second, "train", [*names, {"role": "preset, fresh weights", "name": "tiny"}])

    told = without_places(whole)
    assert str(tmp_path) in json.dumps(whole) and str(tmp_path.parent) not in json.dumps(told)
    assert [one["name"] for one in told["parents"]] == ["first", "Qwen/Qwen3-4B", "siglip", "tiny"]
    of_first, digests = told["parents"][0]["lineage"], kept["data"]["files"]
    assert of_first["parents"][0]["name"] == "absent"
    here, there = digests[str(files[0])], digests[str(files[1])]
    assert of_first["data"]["files"] == {"a.jsonl": here, "a.jsonl (2)": there, "gone.jsonl": "gone.jsonl"}
    assert told["weights"] == whole["weights"] and of_first["data"]["recipe"] == kept["data"]["recipe"]
    assert whole == read_lineage(second), "the given lineage stays as it was"


def test_bad_files_are_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a", a=torch.zeros(2))
    with pytest.raises(ValueError, match="its descent was not recorded"):
        read_lineage(folder)
    (folder / LINEAGE).write_text('{"format": 99}')
    with pytest.raises(ValueError, match="not a lineage of format 1"):
        read_lineage(folder)
    (folder / LINEAGE).write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        read_lineage(folder)
    (folder / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        weights_digest(folder)
    with pytest.raises(ValueError, match="holds no"):
        weights_digest(tmp_path)
