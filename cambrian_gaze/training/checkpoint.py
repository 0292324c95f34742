"""Complete checkpoints: a marker, written last, lists the files and their sizes.

Trainer writes into `checkpoint-N` directly, so a run that dies while saving leaves half a folder under the final name.
A folder without marker, or whose files are not those of its marker, is never resumed from.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from cambrian_gaze.models.writing import write_json

MARKER = "complete.json"
_FOLDER = re.compile(r"checkpoint-(\d+)")


def mark_complete(folder: Path | str, step: int, **facts: object) -> None:
    """Write the marker: every file of `folder` with its size in bytes. Call it when all ranks have written.

    `facts` are kept with it; `resumable=False` marks a checkpoint without optimizer state.
    """
    folder = Path(folder)
    files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    files.pop(MARKER, None)
    write_json(folder / MARKER, {"step": step, **facts, "files": files})


def read_marker(folder: Path | str) -> dict[str, Any]:
    """The marker of a checkpoint: `step`, `files` and the facts it was written with."""
    return json.loads((Path(folder) / MARKER).read_text(encoding="utf-8"))


def incomplete_because(folder: Path | str) -> str | None:
    """Why `folder` cannot be resumed from, or None where it is complete."""
    folder = Path(folder)
    try:
        marker = read_marker(folder)
        files = marker["files"]
    except FileNotFoundError:
        return f"it has no {MARKER}, so its writing was interrupted"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its {MARKER} cannot be read ({error})"
    if not marker.get("resumable", True):
        return "it holds the model without the optimizer (save_only_model)"
    for name, size in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
    return None


def checkpoint_steps(output_dir: Path | str) -> list[tuple[int, Path]]:
    """(step, folder) of every `checkpoint-N` in `output_dir`, complete or not, by rising step."""
    root = Path(output_dir)
    if not root.is_dir():
        return []
    found = [(match, path) for path in root.iterdir() if path.is_dir() and (match := _FOLDER.fullmatch(path.name))]
    return sorted((int(match.group(1)), path) for match, path in found)


def last_complete_checkpoint(output_dir: Path | str) -> tuple[Path | None, list[str]]:
    """The complete checkpoint of the highest step, and a message for each later folder that was passed over."""
    messages = []
    for _, folder in reversed(checkpoint_steps(output_dir)):
        reason = incomplete_because(folder)
        if reason is None:
            return folder, messages
        messages.append(f"{folder} is passed over: {reason}")
    return None, messages


def prune(output_dir: Path | str, keep: int | None, protected: Path | str | None = None) -> list[Path]:
    """Delete all checkpoints but the `keep` newest whole ones and `protected`; returns what was deleted.

    Nothing is deleted with `keep` None, and never the newest whole one.
    """
    if keep is None:
        return []
    whole = [path for _, path in checkpoint_steps(output_dir) if (path / MARKER).exists()]
    kept = {path.resolve() for path in whole[-max(1, keep) :]}
    if protected is not None:
        kept.add(Path(protected).resolve())
    gone = [path for _, path in checkpoint_steps(output_dir) if path.resolve() not in kept]
    for path in gone:
        (path / MARKER).unlink(missing_ok=True)
        shutil.rmtree(path)
    return gone
