"""`lineage.json` beside the weights of every checkpoint: what they are, which code and data made them, from which
parents. Each file holds the lineage of its parents, so that one folder tells the whole descent.

The fingerprint of weights is a digest of the tensors by name, not of the files: sharding and metadata do not change it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import torch
from safetensors import safe_open

import cambrian_gaze
from cambrian_gaze.files import write_json
from cambrian_gaze.models.conversion.shards import file_sha256, tensor_bytes
from cambrian_gaze.models.folders.folder_check import read_object, regular_size

LINEAGE = "lineage.json"
FORMAT = 1
DEEPEST = 100
"""Generations that a lineage may go back."""


def write_lineage(
    folder: Path | str,
    made_by: str,
    parents: Sequence[Mapping[str, Any]] = (),
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the lineage of the checkpoint in `folder`, once its weights and `config.json` are there.

    Args:
        made_by: one line, such as "train, stage 2, step 400".
        parents: as `parent` gives them.
        data: as `data_recipe` gives it, where the weights were trained.

    Returns: what was written.
    """
    folder = Path(folder)
    lineage = {
        "format": FORMAT,
        "made_by": made_by,
        "weights": weights_digest(folder),
        "config": _digest_of_file(folder / "config.json"),
        "code": code_version(),
        "data": None if data is None else dict(data),
        "parents": [dict(one) for one in parents],
    }
    write_json(folder / LINEAGE, lineage)
    return lineage


def read_lineage(folder: Path | str) -> dict[str, Any]:
    """The lineage beside a checkpoint's weights.

    Raises: ValueError where there is none, or none that this version reads.
    """
    path = Path(folder) / LINEAGE
    if not os.path.lexists(path):
        raise ValueError(f"{folder} has no {LINEAGE}: its descent was not recorded")
    lineage = read_object(path)
    if lineage.get("format") != FORMAT:
        raise ValueError(f"{path} is not a lineage of format {FORMAT}; another version of cambrian-gaze wrote it")
    if fault := _fault(lineage):
        raise ValueError(f"{path} is no lineage: {fault}")
    return lineage


def _fault(lineage: Any, depth: int = 0) -> str | None:
    """What keeps a lineage from being one, down to its oldest parents."""
    if depth > DEEPEST:
        return f"it goes back further than {DEEPEST} generations"
    if not isinstance(lineage, dict):
        return "a parent's lineage is no object"
    code, data, parents = (lineage.get(name) for name in ("code", "data", "parents"))
    texts = [lineage.get(name) for name in ("made_by", "weights", "config")]
    if not (isinstance(code, dict) and isinstance(code.get("version"), str) and _texts(texts)):
        return "made_by, weights, config and the version of the code must be texts"
    if "commit" in code and not (isinstance(code["commit"], str) and "changed" in code):
        return "the commit of the code must be a text, with whether files differed"
    if data is not None and not (
        isinstance(data, dict)
        and isinstance(data.get("recipe"), str)
        and isinstance(data.get("files"), dict)
        and _texts(data["files"].values())
    ):
        return "data must hold a recipe and its files"
    if not isinstance(parents, list):
        return "parents must be a list"
    for one in parents:
        if not (isinstance(one, dict) and _texts([one.get("role"), one.get("name"), one.get("weights", "")])):
            return "a parent must have a role and a name"
        if "lineage" in one and (fault := _fault(one["lineage"], depth + 1)):
            return fault
    return None


def _texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def parent(role: str, name: Path | str) -> dict[str, Any]:
    """A checkpoint that another starts from.

    Args:
        role: what it gives, such as "model" or "vision tower".
        name: a folder or a safetensors file; anything else is taken as the name of a hub repository.

    Returns: role, name, and what is known of it: its lineage where it has one, else the fingerprint of its weights.
    """
    found: dict[str, Any] = {"role": role, "name": str(name)}
    path = Path(name)
    if path.is_dir() and (path / LINEAGE).is_file():
        found["lineage"] = read_lineage(path)
    elif path.is_file() or (path.is_dir() and list(path.glob("*.safetensors"))):
        found["weights"] = weights_digest(path)
    return found


def without_places(lineage: Mapping[str, Any]) -> dict[str, Any]:
    """The lineage for other eyes: of every file and folder the last part of its path, names on the hub as they are.

    Record files of the same name are numbered; digests stay what they were.
    """
    told = dict(lineage)
    if lineage["data"] is not None:
        files: dict[str, str] = {}
        for path, digest in lineage["data"]["files"].items():
            name, count = PurePath(path).name, 1
            while name in files:
                count += 1
                name = f"{PurePath(path).name} ({count})"
            files[name] = digest if digest != path else PurePath(path).name
        told["data"] = {**lineage["data"], "files": files}
    told["parents"] = [_parent_without_place(one) for one in lineage["parents"]]
    return told


def _parent_without_place(one: Mapping[str, Any]) -> dict[str, Any]:
    name = one["name"]
    is_here = "lineage" in one or "weights" in one
    if is_here or name.count("/") != 1 or name.startswith((".", "/", "~")):
        name = PurePath(name).name
    told = {**one, "name": name}
    if "lineage" in one:
        told["lineage"] = without_places(one["lineage"])
    return told


def data_recipe(values: Mapping[str, Any], files: Sequence[Path | str]) -> dict[str, Any]:
    """What a run reads, with a digest that is the same wherever the files lie.

    Args:
        values: options that decide about samples, without places of files.
        files: the record files in order; where one is no file here, its name counts. Pictures and films are not read.
    """
    digests = {str(file): _digest_of_file(Path(file)) if Path(file).is_file() else str(file) for file in files}
    text = json.dumps([dict(values), list(digests.values())], sort_keys=True, default=str)
    recipe = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return {"recipe": recipe, "values": dict(values), "files": digests}


def weights_digest(path: Path | str) -> str:
    """Digest of the safetensors weights in a folder, or in one file: names, types, shapes and bytes, by name.

    Raises: ValueError where there are none, or a file is no safetensors.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if path.is_dir() and (path / "model.safetensors.index.json").is_file():
        index = read_object(path / "model.safetensors.index.json")
        files = sorted({path / name for name in index.get("weight_map", {}).values()})
    elif path.is_dir() and (path / "model.safetensors").is_file():
        files = [path / "model.safetensors"]
    if not files:
        raise ValueError(f"{path} holds no *.safetensors")
    digests: dict[str, str] = {}
    for file in files:
        regular_size(file)
        try:
            with safe_open(str(file), framework="pt") as opened:
                for name in opened.keys():
                    digests[name] = _digest_of_tensor(opened.get_tensor(name))
        except Exception as error:
            raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
    text = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def code_version() -> dict[str, Any]:
    """Version of this package, and in a checkout its commit and whether files differ from it."""
    code: dict[str, Any] = {"version": cambrian_gaze.__version__}
    package = Path(cambrian_gaze.__file__).resolve().parent
    if not (package.parent / ".git").exists():
        return code

    def git(*words: str) -> str | None:
        try:
            command = ["git", "-C", str(package), *words]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if (commit := git("rev-parse", "HEAD")) is not None:
        code |= {"commit": commit, "changed": git("status", "--porcelain", "--", ".") != ""}
    return code


def code_text(code: Mapping[str, Any]) -> str:
    """`code_version` in words."""
    if "commit" not in code:
        return f"cambrian-gaze {code['version']}"
    changed = " with changes" if code["changed"] else ""
    return f"cambrian-gaze {code['version']}, commit {code['commit'][:12]}{changed}"


def lines(lineage: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """The descent as text, a generation per indentation."""
    data = lineage["data"]
    yield f"{indent}made by   {lineage['made_by']}"
    yield f"{indent}weights   {lineage['weights']}"
    yield f"{indent}config    {lineage['config']}"
    yield f"{indent}code      {code_text(lineage['code'])}"
    if data is not None:
        yield f"{indent}data      {data['recipe']}"
        for file, digest in data["files"].items():
            yield f"{indent}          {file}  {digest}"
    for one in lineage["parents"]:
        yield f"{indent}parent    {one['role']}: {one['name']}"
        if "lineage" in one:
            yield from lines(one["lineage"], indent + "    ")
        else:
            yield f"{indent}    weights   {one.get('weights', 'not known: a name on the hub')}"


def _digest_of_tensor(tensor: torch.Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def _digest_of_file(path: Path) -> str:
    return f"sha256:{file_sha256(path)}"
