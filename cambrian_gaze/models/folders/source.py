"""Where a model, tokenizer or tower is loaded from: a folder, or an id of the Hub, which is never asked for a path."""

from __future__ import annotations

import difflib
from pathlib import Path

OUTPUT_FOLDERS = ("runs", "outputs", "output", "checkpoints", "ckpts", "models")
"""First parts of names that are paths even where there is no such folder yet."""
SHOWN = 8


class NoSuchFolder(FileNotFoundError, ValueError):
    """A path that leads nowhere, or to something that is no folder of a model."""


def known_source(name: str | Path) -> str:
    """`name` as transformers takes it, if it is a folder or may be an id of the Hub.

    Raises: NoSuchFolder, which says what lies nearby, for a path without a folder.
    """
    text = str(name)
    path = Path(text).expanduser()
    if path.is_dir():
        return str(path)
    if path.exists():
        raise NoSuchFolder(f"{text} is a file; name the folder that holds it, with its config.json")
    if not looks_like_path(text):
        return text
    raise NoSuchFolder(f"no such folder: {text}; {_nearby(path)} (an id of the Hub looks like Qwen/Qwen3-4B)")


def looks_like_path(name: str) -> bool:
    """Whether a name without a folder can only be meant as a path: `./x`, `/x`, `~/x`, `a/b/c`, `runs/x`, or `x/y`
    beside a folder `x`."""
    parts = Path(name).parts
    return (
        name.startswith((".", "/", "~"))
        or "\\" in name
        or name.endswith("/")
        or len(parts) > 2
        or (len(parts) == 2 and (parts[0] in OUTPUT_FOLDERS or Path(parts[0]).is_dir()))
    )


def _nearby(path: Path) -> str:
    """What there is in the deepest folder on the way that exists, the nearest names first."""
    here = next(parent for parent in (path.parent, *path.parents) if parent.is_dir())
    missing = path.relative_to(here).parts[0]
    folders = sorted(entry.name for entry in here.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    where = "the working directory" if here == Path() else str(here)
    if not folders:
        return f"{where} holds no folders"
    near = difflib.get_close_matches(missing, folders, n=SHOWN, cutoff=0.5)
    shown = [*near, *(name for name in folders if name not in near)][:SHOWN]
    more = len(folders) - len(shown)
    return f"in {where} there are {', '.join(shown)}" + (f" and {more} more" if more else "")
