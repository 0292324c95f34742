"""Configuration of a run: a YAML file, the file it is based on, and flags on the command line, in rising precedence.

Keys are flat and are the fields of `arguments.ARGUMENT_CLASSES`; the dataclasses give the types. Nothing is ignored: an
unknown key fails, names the file (or the command line) that holds it and the nearest known key.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser

from cambrian_gaze.training.arguments import (
    ARGUMENT_CLASSES,
    DataArguments,
    GazeArguments,
    ModelArguments,
    TrainingArguments,
)
from cambrian_gaze.training.layers import ConfigError, read_layers
from cambrian_gaze.training.lora_arguments import LoraArguments

COMMAND_LINE = "the command line"
PATH_FIELDS = ("deepspeed", "fsdp_config", "accelerator_config")
"""Paths of configuration files: where the working directory has no such file, the YAML file's folder is tried."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The arguments of a run, and where they came from."""

    model: ModelArguments
    gaze: GazeArguments
    data: DataArguments
    training: TrainingArguments
    lora: LoraArguments
    values: dict[str, Any]
    """Key → value as written, after bases and overrides: with `sources` the record of the run."""
    sources: dict[str, str]
    """Key → file, or `the command line`."""


def load(argv: Sequence[str]) -> RunConfig:
    """Read `[CONFIG.yaml] [--flag value …]`.

    Raises: ConfigError on unknown keys, unreadable files and values of the wrong type.
    """
    values, sources = gather(argv)
    tokens = [token for key, value in values.items() for token in as_tokens(key, value)]
    parser = _Parser(ARGUMENT_CLASSES, sources)
    try:
        model, gaze, data, training, lora = parser.parse_args_into_dataclasses(tokens, look_for_args_file=False)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        places = ", ".join(sorted(set(sources.values()))) or "the defaults"
        raise ConfigError(f"{places}: {error}") from error
    return RunConfig(model, gaze, data, training, lora, values, sources)


def gather(argv: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and their sources, from the file in `argv` (if the first token is no flag) and the flags after it.

    Checks names, not types.
    """
    argv = list(argv)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if argv and not argv[0].startswith("--"):
        for path, layer in read_layers(Path(argv.pop(0))):
            _check_names(layer, str(path))
            for key, value in layer.items():
                values[key], sources[key] = _beside(key, value, path), str(path)
    overrides = read_flags(argv)
    _check_names(overrides, COMMAND_LINE)
    values.update(overrides)
    sources.update(dict.fromkeys(overrides, COMMAND_LINE))
    return {k: v for k, v in values.items() if v is not None}, sources


def read_flags(tokens: Sequence[str]) -> dict[str, Any]:
    """`--key value…`, `--key=value`, `--key` and `--no_key` as a dict of strings, lists and booleans; `null` is None,
    as in a file."""
    flags: dict[str, Any] = {}
    key = None
    for token in tokens:
        if token.startswith("--"):
            key, equals, value = token[2:].partition("=")
            key = key.replace("-", "_")
            flags[key] = [value] if equals else []
        elif key is None:
            raise ConfigError(f"{COMMAND_LINE}: {token!r} stands before any --flag")
        else:
            flags[key].append(token)
    known = known_keys()
    result: dict[str, Any] = {}
    for key, given in flags.items():
        if not given and key.startswith("no_") and key not in known:
            result[key[3:]] = False
        else:
            result[key] = True if not given else None if given == ["null"] else given[0] if len(given) == 1 else given
    return result


def as_tokens(key: str, value: Any) -> list[str]:
    """A value as the command line would spell it."""
    if isinstance(value, dict):
        return [f"--{key}={json.dumps(value)}"]
    if isinstance(value, (list, tuple)):
        return [f"--{key}", *map(str, value)]
    return [f"--{key}={value}"]


def known_keys() -> dict[str, type]:
    """Every key that a configuration may set → the dataclass that owns it."""
    return {f.name: cls for cls in ARGUMENT_CLASSES for f in dataclasses.fields(cls) if f.init}


def field_docs(cls: type) -> dict[str, str]:
    """Field → the docstring under it, for the classes of this project along the inheritance of `cls`."""
    docs: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if not owner.__module__.startswith("cambrian_gaze"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body
        for statement, following in zip(body, body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                if isinstance(following.value, ast.Constant) and isinstance(following.value.value, str):
                    docs[statement.target.id] = " ".join(following.value.value.split())
    return docs


def help_text() -> str:
    """Usage and every key with its help, grouped by dataclass."""
    parser = _Parser(ARGUMENT_CLASSES, {})
    parser.usage = "cambrian-gaze train [CONFIG.yaml] [--nproc_per_node N] [--key value …]"
    return parser.format_help()


def _check_names(values: dict[str, Any], source: str) -> None:
    known = known_keys()
    for key in values:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else "; see `cambrian-gaze train --help`"
            raise ConfigError(f"{source}: unknown key {key!r}{hint}")


def _beside(key: str, value: Any, path: Path) -> Any:
    """Configuration files named in a YAML file may lie beside it."""
    if key in PATH_FIELDS and isinstance(value, str) and not Path(value).exists() and (path.parent / value).exists():
        return str(path.parent / value)
    return value


class _Parser(HfArgumentParser):
    """Hugging Face's typed parser: help from docstrings, errors as exceptions that name the source of the key."""

    def __init__(self, classes: Sequence[type], sources: dict[str, str]) -> None:
        self._sources = sources
        super().__init__(list(classes), add_help=False, allow_abbrev=False)
        docs = {name: text for cls in classes for name, text in field_docs(cls).items()}
        for action in self._actions:
            if action.dest in docs:
                action.help = docs[action.dest].replace("%", "%%")

    def error(self, message: str) -> NoReturn:
        option = message.removeprefix("argument ").split(":")[0].split("/")[0].lstrip("-")
        raise ConfigError(f"{self._sources.get(option, COMMAND_LINE)}: {message}")
