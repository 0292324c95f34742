"""Reading a YAML configuration and the files it is based on, without importing torch: the launcher reads it too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cambrian_gaze.declarations import declaration

BASE = "base"
"""Key of a YAML file that names the file it differs from, relative to its own folder; of several the later ones win."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file and the key."""


def read_layers(path: Path, seen: tuple[Path, ...] = ()) -> list[tuple[Path, dict[str, Any]]]:
    """The file and those it is based on, the bases first: [(path, its own keys)]."""
    import yaml

    path = declaration(path)
    if path.resolve() in seen:
        raise ConfigError(f"{path}: `{BASE}` leads back to this file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML file: {error}") from error
    if content is None:
        content = {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path} must hold `key: value` lines, it holds a {type(content).__name__}")
    bases = content.pop(BASE, None)
    bases = [] if bases is None else bases if isinstance(bases, list) else [bases]
    layers = [layer for base in bases for layer in read_layers(path.parent / str(base), (*seen, path.resolve()))]
    return [*layers, (path, content)]
