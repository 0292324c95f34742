"""The one reader of a run's command line, `[CONFIG.yaml] [--key value …]`: for the launcher, the check of the batch
before it, the ranks and the configuration. Nothing here imports torch.

Hyphens and underscores mean the same, in flags as in files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze.training.config.layers import ConfigError, read_layers

COMMAND_LINE = "the command line"
NOTHING = ("null", "None")
"""How a flag says that a key has no value, as `null` does in a file."""
ALIASES = {"num_processes": "nproc_per_node"}
"""Accelerate's name of a key."""

Layers = list[tuple[str, dict[str, Any]]]


def plain_key(name: str) -> str:
    """The name of a key as the dataclasses have it."""
    name = name.replace("-", "_")
    return ALIASES.get(name, name)


def read_layered(argv: Sequence[str]) -> Layers:
    """(place, its values) of the files that the first word names, the bases first, and of the flags after it.

    Raises: ConfigError on a file that cannot be read, on one key written twice in two spellings, and on a word that
        belongs to no flag.
    """
    argv = list(argv)
    layers: Layers = []
    if argv and not argv[0].startswith("--"):
        layers = [(str(path), _plain(layer, str(path))) for path, layer in read_layers(Path(argv.pop(0)))]
    return [*layers, (COMMAND_LINE, read_flags(argv))]


def read_flags(tokens: Sequence[str]) -> dict[str, Any]:
    """`--key value…`, `--key=value`, `--key` and `--no_key` as a dict of strings, lists and booleans; of a key given
    twice the last one counts."""
    given: dict[str, list[str]] = {}
    key = None
    for token in tokens:
        if token.startswith("--"):
            name, equals, value = token[2:].partition("=")
            key = plain_key(name)
            given.pop(key, None)
            given[key] = [value] if equals else []
        elif key is None:
            raise ConfigError(f"{COMMAND_LINE}: {token!r} stands before any --flag")
        else:
            given[key].append(token)
    flags: dict[str, Any] = {}
    for key, values in given.items():
        if not values and key.startswith("no_"):
            flags[plain_key(key[3:])] = False
        elif not values:
            flags[key] = True
        elif len(values) > 1:
            flags[key] = values
        else:
            flags[key] = None if values[0] in NOTHING else values[0]
    return flags


def setting(key: str, argv: Sequence[str]) -> Any:
    """What the command line, or else the YAML file, says of a key; None where neither does."""
    found = None
    for _, values in read_layered(argv):
        found = values.get(key, found)
    return None if found == "" else found


def _plain(layer: dict[str, Any], place: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in layer.items():
        if (key := plain_key(name)) in values:
            raise ConfigError(f"{place}: {name!r} is there twice, hyphens and underscores being the same")
        values[key] = value
    return values
