"""Files written tensor by tensor are safetensors files like any other."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cambrian_gaze.files import new_folder
from cambrian_gaze.models.conversion.shard_writer import Planned, write_file, write_shards
from cambrian_gaze.models.conversion.shards import DTYPES, Shards


def planned(tensors: dict[str, torch.Tensor]) -> list[Planned]:
    return [Planned(name, tuple(t.shape), t.dtype, t.clone) for name, t in tensors.items()]


def test_every_type_and_shape_comes_back(tmp_path: Path) -> None:
    """An odd number of bytes before a wide type, a scalar, an empty tensor, a transposed one."""
    tensors = {f"odd.{name}": torch.arange(3).to(dtype) for name, dtype in DTYPES.items()}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "turned": torch.arange(6.0).view(2, 3).T}
    write_file(tmp_path / "a.safetensors", planned(tensors))
    read = load_file(tmp_path / "a.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name


def test_shards_hold_at_most_what_is_asked_and_the_index_finds_all(tmp_path: Path) -> None:
    tensors = {f"t{number}": torch.full((10,), float(number)) for number in range(5)} | {"large": torch.ones(100)}
    files = write_shards(tmp_path, planned(tensors), max_shard_size=100, progress=False)
    assert [len(load_file(file)) for file in files] == [2, 2, 1, 1]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * 150
    shards = Shards(tmp_path)
    assert all(torch.equal(shards.tensor(name), tensor) for name, tensor in tensors.items())


def test_a_tensor_that_is_not_what_was_announced_is_refused(tmp_path: Path) -> None:
    wrong = Planned("a", (3,), torch.float32, lambda: torch.zeros(4))
    with pytest.raises(ValueError, match=r"a is \(4,\), but \(3,\) was announced"):
        write_file(tmp_path / "a.safetensors", [wrong])


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with pytest.raises(RuntimeError), new_folder(out) as folder:
        (folder / "half").write_text("half")
        raise RuntimeError
    assert list((tmp_path / "new").iterdir()) == []
    out.mkdir()
    with new_folder(out) as folder:
        (folder / "whole").write_text("whole")
        assert list(out.iterdir()) == []
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    assert (out / "whole").read_text() == "whole"
    with pytest.raises(ValueError, match="exists and is not an empty folder"), new_folder(out):
        pass
