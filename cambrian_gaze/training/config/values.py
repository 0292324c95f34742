"""The values of a run as they are written, files and flags put together, under our own names. No torch is imported.

Names are checked here, types in `config.py`. Nothing is ignored: an unknown key fails, names the file (or the command
line) that holds it and the nearest known key.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze.plugins import check_plugin
from cambrian_gaze.training.config import foreign
from cambrian_gaze.training.config.accepted import refusal
from cambrian_gaze.training.config.flags import ADDED_UP, added_up, read_layered
from cambrian_gaze.training.config.help import documented
from cambrian_gaze.training.config.layers import ConfigError

PATH_FIELDS = ("deepspeed", "fsdp_config", "accelerator_config", "plugin")
"""Paths of files that go with a YAML file: where the working directory has no such file, the YAML file's folder is
tried."""


def gather(argv: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and their sources, from the file in `argv` (if the first token is no flag) and the flags after it.

    Plugins are looked at, and not run.

    Raises: ConfigError for files that cannot be read, unknown keys, and values that are never taken.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    problems: list[str] = []
    for place, layer in read_layered(argv):
        layer, refused = foreign.translate(layer, key_names())
        problems += [f"{place}: {text}" for text in [*refused, *_unknown(layer), *_without_effect(layer)]]
        for key, value in layer.items():
            value = _beside(key, value, Path(place))
            values[key] = added_up(values.get(key), value) if key in ADDED_UP else value
            sources[key] = place
    for path in values.get("plugin") or ():
        try:
            check_plugin(path)
        except ValueError as error:
            problems.append(f"{sources['plugin']}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return {k: v for k, v in values.items() if v is not None}, sources


def setting(key: str, argv: Sequence[str]) -> Any:
    """What the command line, or else the YAML file, says of a key; None where neither does. Raises ConfigError."""
    return gather(argv)[0].get(key)


@functools.cache
def key_names() -> frozenset[str]:
    """Every key that a configuration may set. Those of transformers' `TrainingArguments` are read off its source."""
    ours = {key.name for keys in documented().values() for key in keys}
    folder = importlib.util.find_spec("transformers").submodule_search_locations[0]
    tree = ast.parse(Path(folder, "training_args.py").read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"]
    fields = [node for cls in classes for node in cls.body if isinstance(node, ast.AnnAssign)]
    return frozenset(ours | {field.target.id for field in fields})


def _unknown(values: dict[str, Any]) -> list[str]:
    known = key_names()
    problems = []
    for key in values:
        if key not in known:
            nearest = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.7)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else "; see `cambrian-gaze train --help`"
            problems.append(f"unknown key {key!r}{hint}")
    return problems


def _without_effect(values: dict[str, Any]) -> list[str]:
    """Keys of `TrainingArguments` that only one value is taken of, see `accepted.REFUSED`."""
    found = [refusal(key, value) for key, value in values.items() if value is not None]
    return [text for text in found if text is not None]


def _beside(key: str, value: Any, path: Path) -> Any:
    """Configuration files named in a YAML file may lie beside it."""
    if key in PATH_FIELDS and isinstance(value, (list, tuple)):
        return [_beside(key, one, path) for one in value]
    if key in PATH_FIELDS and isinstance(value, str) and not Path(value).exists() and (path.parent / value).exists():
        return str(path.parent / value)
    return value
