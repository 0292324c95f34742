"""The tensors of a checkpoint, read one at a time: a folder of safetensors or .bin shards, or a single such file.

Nothing is unpickled but tensors (`weights_only=True`), and nothing is read that an index does not name: a checkpoint
that is torn, incomplete or not what its hashes say is refused before anything is made of it.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from cambrian_gaze.models.folders.folder_check import read_object

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "BOOL": torch.bool,
}
"""Names of dtypes in safetensors files."""

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
HASHES = "SHA256SUMS"


class Entry(NamedTuple):
    """Where a tensor lies, and what it is."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    """None: one that torch has no name for, see `Shards`."""


class Shards:
    """The tensors of a checkpoint by name.

    Args:
        path: a folder with `model.safetensors` or `pytorch_model.bin`, whole or sharded with an index; or one file.
        only_listed: names and shapes are all that is asked for, of the files that transformers would load: of a whole
            file beside an index the former, and of any type.

    Raises: ValueError where files are missing, torn or ambiguous, hold anything but tensors, or disagree with the
        index.
    """

    def __init__(self, path: Path | str, only_listed: bool = False) -> None:
        self.path = Path(path)
        files, indexed = _weight_files(self.path, only_listed)
        self.files = files
        self.entries: dict[str, Entry] = {}
        for file in files:
            for name, entry in _list(file, only_listed).items():
                if name in self.entries:
                    raise ValueError(f"{name} is in {self.entries[name].file.name} and in {file.name} of {self.path}")
                self.entries[name] = entry
        if indexed is not None:
            self._compare(indexed)
        self._loaded: tuple[Path, dict[str, Tensor]] | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def tensor(self, name: str) -> Tensor:
        """The tensor; its file is not kept open, so that memory holds what the caller keeps and nothing else."""
        file = self.entries[name].file
        if file.suffix == ".safetensors":
            with safe_open(str(file), framework="pt") as opened:
                return opened.get_tensor(name)
        if self._loaded is None or self._loaded[0] != file:
            self._loaded = (file, _unpickle(file, "cpu"))
        return self._loaded[1][name]

    def check_hashes(self, progress: bool = False) -> int:
        """Compare the weights with a `SHA256SUMS` file beside them, and those of the hub's cache with their names.

        Returns: how many files were compared.
        Raises: ValueError naming the file that is not what its hash says.
        """
        expected = _listed_hashes(self.path) if self.path.is_dir() else {}
        for file in self.files:
            blob = file.resolve().name
            if re.fullmatch("[0-9a-f]{64}", blob):
                expected.setdefault(file.name, blob)
        files = [file for file in self.files if file.name in expected]
        for file in tqdm(files, desc="checking hashes", unit="file", disable=not (progress and files)):
            found, want = file_sha256(file), expected[file.name]
            if found != want:
                raise ValueError(f"{file} has the SHA-256 {found}, not {want}: damaged or changed; fetch it again")
        return len(files)

    def _compare(self, indexed: dict[str, str]) -> None:
        """Index and files must tell the same."""
        wrong = [n for n, file in indexed.items() if n not in self.entries or self.entries[n].file.name != file]
        extra = [name for name in self.entries if name not in indexed]
        if wrong or extra:
            raise ValueError(
                f"the index of {self.path} and its files disagree: {len(wrong)} tensors are not where it says "
                f"({', '.join(wrong[:3])}), {len(extra)} are not in it ({', '.join(extra[:3])}); fetch it again"
            )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor as they stand in a safetensors file."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def _weight_files(path: Path, whole_first: bool) -> tuple[list[Path], dict[str, str] | None]:
    """Files of a checkpoint, and the index's {tensor: file name} where there is one."""
    if path.is_file():
        return [path], None
    if not path.is_dir():
        raise ValueError(f"there is no checkpoint at {path}")
    found = [path / f"{name}{suffix}" for name in WEIGHT_FILES for suffix in ("", ".index.json")]
    found = [file for file in found if file.is_file()]
    if any(file.name.startswith(WEIGHT_FILES[0]) for file in found):
        found = [file for file in found if file.name.startswith(WEIGHT_FILES[0])]
    if whole_first:
        found = found[:1]
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise ValueError(
            f"{path} must hold one of {', '.join(WEIGHT_FILES)} or its .index.json; found: {names}"
            + ("; delete the one that is not meant" if found else "")
        )
    if found[0].suffix != ".json":
        return found, None
    index = read_object(found[0])
    try:
        indexed = index["weight_map"]
        shards = sorted({str(file) for file in indexed.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{found[0]} is no index of shards: {type(error).__name__} {error}") from error
    outside = [name for name in shards if Path(name).name != name]
    if outside:
        raise ValueError(f"{found[0]} names files outside its folder: {', '.join(outside[:3])}")
    missing = [name for name in shards if not (path / name).is_file()]
    if missing:
        names = ", ".join(missing[:3])
        raise ValueError(f"{path} lacks {len(missing)} of {len(shards)} shards: {names}; fetch it again")
    return [path / name for name in shards], indexed


def _list(file: Path, any_type: bool) -> dict[str, Entry]:
    if file.suffix != ".safetensors":
        return {name: Entry(file, tuple(t.shape), t.dtype) for name, t in _unpickle(file, "meta").items()}
    entries = {}
    try:
        with safe_open(str(file), framework="pt") as opened:
            for name in opened.keys():
                part = opened.get_slice(name)
                kind = part.get_dtype()
                if kind not in DTYPES and not any_type:
                    raise ValueError(f"{name} has the type {kind}, which is not supported: {', '.join(DTYPES)}")
                entries[name] = Entry(file, tuple(part.get_shape()), DTYPES.get(kind))
    except Exception as error:
        raise ValueError(f"{file} cannot be read as safetensors ({error}); it is torn or something else") from error
    return entries


def _unpickle(file: Path, device: str) -> dict[str, Tensor]:
    """Tensors of a torch file; unwrapped where SPMD training wrapped them."""
    try:
        content = torch.load(file, map_location=device, weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:
        raise ValueError(
            f"{file} is refused: it cannot be read with weights_only=True, so it is torn or holds code "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error
    if isinstance(content, dict) and set(content) == {"model"}:
        content = content["model"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{file} is refused: it must hold a dictionary of tensors and nothing else")
    return {name.removeprefix("_orig_module."): tensor for name, tensor in content.items()}


def _listed_hashes(folder: Path) -> dict[str, str]:
    """{file name: SHA-256} of a `sha256sum` list."""
    path = folder / HASHES
    if not path.is_file():
        return {}
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match = re.fullmatch(r"([0-9a-f]{64})\s[ *](\S.*)", line)
        if match is None:
            raise ValueError(f"{path}, line {number}: expected a SHA-256, two blanks and a file name, got {line!r}")
        found[match.group(2)] = match.group(1)
    return found
