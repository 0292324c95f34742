"""Recipe files: YAML that lists the sources of a mixture, checked key by key."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any

from cambrian_gaze.declarations import declaration

RECIPE_KEYS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "root": (str,),
    "seed": (int,),
    "datasets": (list,),
}
"""Key of a recipe → types of its value. `root`: folder that paths start from, by default the recipe's own."""

SOURCE_KEYS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "path": (str,),
    "json_path": (str,),
    "image_folder": (str,),
    "video_folder": (str,),
    "sampling_strategy": (str,),
    "weight": (int, float),
    "share": (int, float, str),
    "system_prompt": (str,),
    "prompt_suffix": (str,),
    "expected": (dict,),
    "columns": (dict,),
    "ignore_keys": (list,),
    "fps": (int, float),
    "config": (str,),
    "split": (str,),
    "streaming": (bool,),
}
"""Key of an entry of `datasets` → types of its value. `json_path` is LLaVA-NeXT's name of `path`."""

EXPECTED_KEYS = ("rows", "images", "videos", "missing", "duplicates")
"""Counts that a recipe may state for a source, to compare a download with."""


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the file, the entry and the remedy."""


def read_recipe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The recipe as written, its keys and types checked, `datasets` a list of at least one dict.

    Raises: RecipeError.
    """
    import yaml

    file = os.fspath(path)
    try:
        content = yaml.safe_load(declaration(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {file}: {error.strerror}; check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file} is no YAML file: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{file} must hold a mapping with `datasets:`, it holds a {type(content).__name__}")
    check_keys(content, RECIPE_KEYS, file)
    entries = content.get("datasets")
    if not entries:
        raise RecipeError(f"{file}: `datasets` lists no source; add `- path: FILE.jsonl`")
    for number, entry in enumerate(entries, 1):
        where = f"{file}, entry {number}"
        if not isinstance(entry, dict):
            raise RecipeError(f"{where}: {entry!r} is no mapping; write `- path: {entry}`")
        check_keys(entry, SOURCE_KEYS, where)
        if ("path" in entry) == ("json_path" in entry):
            raise RecipeError(f"{where}: give `path` (or `json_path`, its other name), once")
        if "weight" in entry and "share" in entry:
            raise RecipeError(f"{where}: give `weight` or `share`, not both")
        if not entry.get("fps", 1.0) > 0:
            raise RecipeError(f"{where}: fps is {entry['fps']!r}; write the rate of its frames, such as 3")
        for key in entry.get("ignore_keys", []):
            if not isinstance(key, str) or key in ("conversations", "messages"):
                raise RecipeError(f"{where}: ignore_keys holds {key!r}; list keys of the rows other than their turns")
        for key, column in entry.get("columns", {}).items():
            if not isinstance(key, str) or not isinstance(column, str):
                raise RecipeError(f"{where}: columns maps {key!r} to {column!r}; write `KEY: COLUMN`, both names")
        expected = entry.get("expected", {})
        check_keys(expected, dict.fromkeys(EXPECTED_KEYS, (int,)), f"{where}, expected")
    return content


def check_keys(given: Mapping[Any, Any], known: Mapping[str, tuple[type, ...]], where: str) -> None:
    """Raises RecipeError for a key that is unknown (with the nearest one) and for a value of another type."""
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise RecipeError(f"{where}: unknown key {key!r}; {hint}")
        if not isinstance(value, known[key]) or (isinstance(value, bool) and bool not in known[key]):
            wanted = " or ".join(kind.__name__ for kind in known[key])
            raise RecipeError(f"{where}: {key} is {value!r}, not of type {wanted}")


def read_share(value: float | str, where: str) -> float:
    """`30%` or 0.3 → 0.3. Raises RecipeError outside (0, 1]."""
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise RecipeError(f"{where}: share is {value!r}; write a part of the mixture, such as 30% or 0.3")
    return share
