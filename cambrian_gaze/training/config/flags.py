"""The one reader of a run's command line, `[CONFIG.yaml] [--key value …]`: for the launcher, the check of the batch
before it, the ranks, `cambrian-gaze plan` and the configuration. Nothing here imports torch.

Hyphens and underscores mean the same, in flags as in files. Of a key given several times the last one counts, and the
command line comes after the file.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze.training.config.foreign import FALSE, FLAGS, TRUE
from cambrian_gaze.training.config.layers import ConfigError, read_layers

COMMAND_LINE = "the command line"
NOTHING = ("null", "None")
"""How a flag says that a key has no value, as `null` does in a file."""
ALIASES = {"num_processes": "nproc_per_node"}
"""Accelerate's name of a key."""
SWITCHED_OFF = ("deepspeed",)
"""Keys that name a file, and that `false` takes back."""
ADDED_UP = ("plugin",)
"""Keys whose values, given several times, are added up instead of the last one counting."""

Layers = list[tuple[str, dict[str, Any]]]


def plain_key(name: str) -> str:
    """The name of a key as the dataclasses have it."""
    name = name.replace("-", "_")
    return ALIASES.get(name, name)


def asks_for(option: str, argv: Sequence[str]) -> bool:
    """Whether a command line has the bare flag `--OPTION`, for `help` also `-h`."""
    return any(plain_key(word) == f"__{option}" or (option == "help" and word == "-h") for word in argv)


def split_files(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files at the start of a command line, and the flags after them."""
    first = next((i for i, word in enumerate(argv) if word.startswith("--")), len(argv))
    return list(argv[:first]), list(argv[first:])


def read_layered(argv: Sequence[str]) -> Layers:
    """(place, its values) of the files that the first word names, the bases first, and of the flags after it.

    Raises: ConfigError on a file that cannot be read, on one key written twice in two spellings, and on a word that
        belongs to no flag.
    """
    files, flags = split_files(argv)
    layers: Layers = []
    if files:
        layers = [(str(path), _plain(layer, str(path))) for path, layer in read_layers(Path(files[0]))]
    return [*layers, (COMMAND_LINE, read_flags([*files[1:], *flags]))]


def read_flags(tokens: Sequence[str]) -> dict[str, Any]:
    """`--key value…`, `--key=value`, `--key` and `--no_key` as a dict of strings, lists and booleans; of a key given
    twice the last one counts, but of those in `ADDED_UP`. A value that begins with `--` is written `--key=--value`."""
    given: dict[str, list[str]] = {}
    key = None
    for token in tokens:
        if token == "--":
            raise ConfigError(f"{COMMAND_LINE}: -- has no meaning here; leave it out, flags may stand anywhere")
        if token.startswith("--"):
            name, equals, value = token[2:].partition("=")
            key = plain_key(name)
            before = given.pop(key, [])
            given[key] = [*(before if key in ADDED_UP else []), *([value] if equals else [])]
        elif key is None:
            raise ConfigError(f"{COMMAND_LINE}: {token!r} stands before any --flag")
        else:
            given[key].append(token)
    flags: dict[str, Any] = {}
    for key, values in given.items():
        if not values and key.startswith("no_") and key not in FLAGS:
            flags[plain_key(key[3:])] = False
        elif not values:
            flags[key] = True
        elif key in ADDED_UP:
            flags[key] = values
        elif len(values) > 1:
            flags[key] = values
        else:
            flags[key] = None if values[0] in NOTHING else values[0]
    return _switched(flags)


def added_up(before: Any, values: Any) -> list[str] | None:
    """`values` of one of `ADDED_UP` after those `before`, each once; null or false drops those before it. None where
    none is left. Raises ConfigError for a flag without a value."""
    total: list[str] = list(before or [])
    for one in values if isinstance(values, (list, tuple)) else [values]:
        if one is True:
            raise ConfigError("--plugin needs the name of a Python file, as in --plugin mine.py")
        total = [] if str(one).strip().lower() in (*FALSE, "null", "none") else [*total, str(one)]
    return list(dict.fromkeys(total)) or None


def as_words(values: dict[str, Any]) -> list[str]:
    """What `read_flags` reads as `values`."""
    words: list[str] = []
    for key, value in values.items():
        many = value if isinstance(value, (list, tuple)) else [value]
        first, *rest = [json.dumps(one) if isinstance(one, dict) else str(one) for one in many]
        words += [f"--{key}={first}", *rest]
    return words


def take(words: Sequence[str], own: Collection[str]) -> tuple[list[str], list[str]]:
    """`words` of a command that has options of its `own` beside a run's keys: the own ones as `--key=value`, and the
    others."""
    flags = read_flags(words)
    mine, others = ({k: v for k, v in flags.items() if (k in own) == is_own} for is_own in (True, False))
    return as_words(mine), as_words(others)


def number(key: str, value: Any) -> int:
    """The value of a key as a whole number, as its dataclass takes it: not 8.0. Raises ConfigError."""
    one = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
    try:
        return int(str(one))
    except ValueError:
        raise ConfigError(f"{key} must be a whole number, got {value!r}") from None


def boolean(value: Any) -> bool:
    """A value as true or false, in the words that YAML knows and in those of argparse. Raises ValueError."""
    word = str(value).strip().lower()
    if word not in (*TRUE, *FALSE):
        raise ValueError(f"{value!r} is neither {'/'.join(TRUE)} nor {'/'.join(FALSE)}")
    return word in TRUE


def _switched(values: dict[str, Any]) -> dict[str, Any]:
    off = [key for key in SWITCHED_OFF if str(values.get(key)).strip().lower() in FALSE]
    return values | dict.fromkeys(off)


def _plain(layer: dict[str, Any], place: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in layer.items():
        if (key := plain_key(name)) in values:
            raise ConfigError(f"{place}: {name!r} is there twice, hyphens and underscores being the same")
        values[key] = value
    return _switched(values)
