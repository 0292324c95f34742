"""Configuration of a run: a YAML file, the file it is based on, and flags on the command line, in rising precedence.

Keys are flat and are the fields of `arguments.ARGUMENT_CLASSES`; the dataclasses give the types. `values.py` has read
and checked the names before.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NoReturn

from transformers.hf_argparser import HfArgumentParser, string_to_bool

from cambrian_gaze.plugins import Plugin, load_plugins
from cambrian_gaze.training.config.arguments import (
    ARGUMENT_CLASSES,
    DataArguments,
    GazeArguments,
    ModelArguments,
    TrainingArguments,
)
from cambrian_gaze.training.config.flags import COMMAND_LINE, boolean
from cambrian_gaze.training.config.help import USAGE, documented
from cambrian_gaze.training.config.layers import ConfigError
from cambrian_gaze.training.config.lora_arguments import LoraArguments
from cambrian_gaze.training.config.task_arguments import TaskArguments, choose_times, contradictions
from cambrian_gaze.training.config.values import gather


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The arguments of a run, and where they came from."""

    model: ModelArguments
    gaze: GazeArguments
    data: DataArguments
    training: TrainingArguments
    lora: LoraArguments
    tasks: TaskArguments
    values: dict[str, Any]
    """Key → value as written, after bases and overrides: with `sources` the record of the run."""
    sources: dict[str, str]
    """Key → file, or `the command line`."""
    plugins: tuple[Plugin, ...] = ()
    """Those that `plugin` names, loaded."""


def load(argv: Sequence[str]) -> RunConfig:
    """Read `[CONFIG.yaml] [--flag value …]`, and load the plugins that it names.

    Raises: ConfigError on unknown keys, unreadable files, values of the wrong type, keys that contradict others, and
        plugins that fail.
    """
    values, sources = gather(argv)
    if problems := choose_times(values, sources):
        raise ConfigError("\n".join(problems))
    parser = _Parser(ARGUMENT_CLASSES, sources)
    parser.set_defaults(**{key: parser.typed(key, value) for key, value in values.items()})
    try:
        *parts, training, lora, tasks = parser.parse_args_into_dataclasses([], look_for_args_file=False)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        places = ", ".join(sorted(set(sources.values()))) or "the defaults"
        raise ConfigError(f"{places}: {error}") from error
    if problems := contradictions(tasks, training):
        raise ConfigError("\n".join(problems))
    try:
        plugins = load_plugins(values.get("plugin") or ())
    except ValueError as error:
        raise ConfigError(f"{sources['plugin']}: {error}") from error
    return RunConfig(*parts, training, lora, tasks, values, sources, plugins)


def known_keys() -> dict[str, type]:
    """Every key that a configuration may set → the dataclass that owns it."""
    return {f.name: cls for cls in ARGUMENT_CLASSES for f in dataclasses.fields(cls) if f.init}


def field_docs(cls: type) -> dict[str, str]:
    """Field → the docstring under it, for the classes of this project along the inheritance of `cls`."""
    ours = documented()
    return {one.name: one.text for owner in reversed(cls.__mro__) for one in ours.get(owner.__name__, ())}


def help_text() -> str:
    """Usage and every key with its help, grouped by dataclass."""
    parser = _Parser(ARGUMENT_CLASSES, {})
    parser.usage = USAGE
    return parser.format_help()


class _Parser(HfArgumentParser):
    """Hugging Face's typed parser: help from docstrings, errors as exceptions that name the source of the key."""

    def __init__(self, classes: Sequence[type], sources: dict[str, str]) -> None:
        self._sources = sources
        super().__init__(list(classes), add_help=False, allow_abbrev=False)
        docs = {name: text for cls in classes for name, text in field_docs(cls).items()}
        for action in self._actions:
            if action.dest in docs:
                action.help = docs[action.dest].replace("%", "%%")

            if action.type is string_to_bool:
                action.type = _boolean

    def typed(self, key: str, value: Any) -> Any:
        """A value as written, in the type of its field."""
        action = self._option_string_actions[f"--{key}"]
        words = value if isinstance(value, (list, tuple)) else [value]
        is_list = action.nargs == "+"
        if not words or (len(words) > 1 and not is_list):
            self.error(f"argument --{key}: takes {'at least ' * is_list}one value, got {len(words)}")
        try:
            found = [self._get_value(action, json.dumps(w) if isinstance(w, dict) else str(w)) for w in words]
            for one in found:
                self._check_value(action, one)
        except argparse.ArgumentError as error:
            self.error(str(error))
        return found if is_list else found[0]

    def error(self, message: str) -> NoReturn:
        option = message.removeprefix("argument ").split(":")[0].split("/")[0].lstrip("-")
        raise ConfigError(f"{self._sources.get(option, COMMAND_LINE)}: {message}")


def _boolean(word: str) -> bool:
    try:
        return boolean(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
