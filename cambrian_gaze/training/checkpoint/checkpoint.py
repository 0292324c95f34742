"""Complete checkpoints: a marker, written last, lists the files with their sizes and SHA-256.

Trainer writes into `checkpoint-N` directly, so a run that dies while saving leaves half a folder under the final name.
A folder without marker, or whose files are not those of its marker, is never resumed from.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cambrian_gaze.files import new_folder, write_json
from cambrian_gaze.models.conversion.shards import file_sha256
from cambrian_gaze.models.folders.folder_check import check_files
from cambrian_gaze.training.checkpoint.states import StateError, fault_of_marker, fault_of_states, read_json
from cambrian_gaze.training.faults.bad_steps import STATE_NAME as GRAD_NORMS

MARKER = "complete.json"
_FOLDER = re.compile(r"checkpoint-(\d+)")
_THREADS = 4


class NotSavedError(RuntimeError):
    """A checkpoint could not be written; the message names the last good one."""


def files_of(folder: Path | str) -> list[str]:
    """Every file of a checkpoint but the marker, by its path inside."""
    folder = Path(folder)
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p != folder / MARKER)


def digests(folder: Path | str, names: Iterable[str], flush: bool = False) -> dict[str, str]:
    """SHA-256 of files of `folder`, several at a time; with `flush` they are on the disk when this returns."""

    def digest(name: str) -> str:
        path = Path(folder) / name
        found = file_sha256(path)
        if flush:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        return found

    names = list(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(digest, names), strict=True))


def mark_complete(folder: Path | str, step: int, sha256: Mapping[str, str] | None = None, **facts: object) -> None:
    """Write the marker: every file of `folder` with its size in bytes and SHA-256. Call it when all ranks have written.

    `sha256` of files that are known already are not computed again. `facts` are kept with it; `resumable=False` marks a
    checkpoint without optimizer state.
    """
    folder, known = Path(folder), dict(sha256 or {})
    names = files_of(folder)
    known |= digests(folder, [name for name in names if name not in known], flush=True)
    files = {name: {"size": (folder / name).stat().st_size, "sha256": known[name]} for name in names}
    write_json(folder / MARKER, {"step": step, "time": time.time(), **facts, "files": files})


def read_marker(folder: Path | str) -> dict[str, Any]:
    """The marker of a checkpoint: `step`, `time`, `files` and the facts it was written with."""
    return json.loads((Path(folder) / MARKER).read_text(encoding="utf-8"))


def damage(folder: Path | str, hashes: bool = False) -> str | None:
    """Why the files of `folder` are not those of a finished checkpoint, or None. `hashes` reads all of them."""
    folder = Path(folder)
    if not (folder / MARKER).exists():
        return f"it has no {MARKER}, so its writing was interrupted"
    try:
        marker = read_json(folder / MARKER)
    except StateError as error:
        return f"its {error}"
    match = _FOLDER.fullmatch(folder.name)
    if fault := fault_of_marker(marker, int(match.group(1)) if match else None):
        return f"its {MARKER} cannot be believed: {fault}"
    files = {name: (entry["size"], entry["sha256"]) for name, entry in marker["files"].items()}
    for name, (size, _) in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
    if hashes:
        try:
            found = digests(folder, files)
        except OSError as error:
            return f"it cannot be read ({error})"
        for name, (_, sha256) in files.items():
            if found[name] != sha256:
                return f"{name} is not what was written: its SHA-256 is {found[name]}, not {sha256}"
    return None


def incomplete_because(folder: Path | str, hashes: bool = False, states: bool = False) -> str | None:
    """Why `folder` cannot be resumed from, or None where it is complete. `hashes` reads every byte of it. What it says
    about its run is checked (`states.py`); with `states` it must be there too."""
    if reason := damage(folder, hashes):
        return reason
    marker = read_marker(folder)
    if not marker.get("resumable", True):
        return "it holds the model without the optimizer (save_only_model)"
    return fault_of_states(folder, marker["step"], needed=states)


def checkpoint_steps(output_dir: Path | str) -> list[tuple[int, Path]]:
    """(step, folder) of every `checkpoint-N` in `output_dir`, complete or not, by rising step."""
    root = Path(output_dir)
    if not root.is_dir():
        return []
    found = [(match, path) for path in root.iterdir() if path.is_dir() and (match := _FOLDER.fullmatch(path.name))]
    return sorted((int(match.group(1)), path) for match, path in found)


def last_complete_checkpoint(
    output_dir: Path | str, hashes: bool = False, states: bool = False
) -> tuple[Path | None, list[str]]:
    """The complete checkpoint of the highest step, and a message for each later folder that was passed over."""
    messages = []
    for _, folder in reversed(checkpoint_steps(output_dir)):
        reason = incomplete_because(folder, hashes, states)
        if reason is None:
            return folder, messages
        messages.append(f"{folder} is passed over: {reason}")
    return None, messages


def prune(
    output_dir: Path | str,
    keep: int | None,
    protected: Sequence[Path | str] = (),
    milestone: int | None = None,
) -> list[Path]:
    """Delete all checkpoints but the `keep` newest undamaged ones, those at multiples of `milestone` steps, and
    `protected`; returns what was deleted.

    Nothing is deleted with `keep` None, and never the newest undamaged one.
    """
    if keep is None:
        return []
    good = [(step, path) for step, path in checkpoint_steps(output_dir) if damage(path) is None]
    kept = {path.resolve() for _, path in good[-max(1, keep) :]}
    kept |= {path.resolve() for step, path in good if milestone and step % milestone == 0}
    kept |= {Path(path).resolve() for path in protected}
    gone = [path for _, path in checkpoint_steps(output_dir) if path.resolve() not in kept]
    for path in gone:
        delete(path)
    return gone


def delete(folder: Path) -> None:
    """Delete a checkpoint, its marker first; of one that lies elsewhere the link to it alone."""
    if folder.is_symlink():
        folder.unlink()
        return
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder)


def export_model(source: Path | str, out: Path | str) -> tuple[Path, list[str]]:
    """Copy the model in a checkpoint, or in the last complete one of an `output_dir`, into the new folder `out`.

    Returns: `out`, and the names of its files. Raises: ValueError where the checkpoint is damaged or `out` is there.
    """
    folder = Path(source)
    if not (folder / MARKER).exists() and checkpoint_steps(folder):
        good = [path for _, path in checkpoint_steps(folder) if damage(path) is None]
        folder = good[-1] if good else folder
    if reason := damage(folder, hashes=True):
        raise ValueError(f"{folder} cannot be exported: {reason}")
    check_files(folder, copied="as it is")
    names = [path.name for path in sorted(folder.iterdir()) if path.is_file() and _is_of_model(path.name)]
    if not any(name.endswith(".safetensors") for name in names):
        raise ValueError(f"{folder} holds no *.safetensors; with a sharded save the weights must be gathered first")
    with new_folder(out) as partial:
        for name in names:
            shutil.copy2(folder / name, partial / name)
    return Path(out), names


def _is_of_model(name: str) -> bool:
    """Whether a file of a checkpoint is the model's or the processor's; the others serve resuming."""
    resuming = name in (MARKER, GRAD_NORMS, "trainer_state.json") or name.startswith("data_")
    return name.endswith((".safetensors", ".json", ".jinja", ".txt", ".model", ".md")) and not resuming
