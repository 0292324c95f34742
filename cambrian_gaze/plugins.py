"""`--plugin FILE.py`: Python files of the user's own that register things, and what a folder says of those it needs.

A plugin is code that the user names: nothing is looked for, and no record of a plugin in a folder is ever run. Plain
Python until one is loaded.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import stat
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

KINDS = ("descriptor", "benchmark", "attention backend", "vision tower", "policy")
"""What a plugin may register."""
SHOWN = 12
"""Hexadecimal digits of a SHA-256 that messages show."""
MOST = 100
"""Plugins of a folder's record that are read, and characters of a name in it."""

T = TypeVar("T")


@dataclass(frozen=True)
class Plugin:
    """A plugin that was loaded, or that a folder's record names."""

    file: str
    """Its file's name, without the folder."""
    sha256: str
    registers: tuple[str, ...] = ()
    """Kind and name of each thing, such as "descriptor nearest"."""

    def to_dict(self) -> dict[str, Any]:
        """As a record holds it, in JSON types."""
        return {"file": self.file, "sha256": self.sha256, "registers": list(self.registers)}

    def __str__(self) -> str:
        return f"--plugin {self.file} (SHA-256 {self.sha256[:SHOWN]})"


_loaded: dict[str, Plugin] = {}
"""Real path → plugin, in the order in which they were loaded."""
_owners: dict[str, Plugin] = {}
"""Kind and name → the loaded plugin that registered it."""
_recorded: dict[str, Plugin] = {}
"""Kind and name → the plugin that a folder read in this process names for it."""
_running: list[list[str]] = []
"""What the plugin that runs now has registered; empty while none runs."""


def check_plugin(path: str) -> tuple[bytes, CodeType]:
    """A plugin's bytes and code, read and compiled but not run.

    Raises: ValueError for what is no regular file ending in .py (links, folders and pipes are none), and for what is no
        Python, with its line.
    """
    try:
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode) or not path.endswith(".py"):
            what = "is no regular file" if not stat.S_ISREG(mode) else "does not end in .py"
            raise ValueError(f"--plugin {path} {what}; name the Python file itself, not a link or a folder")
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ValueError(f"--plugin {path}: {error.strerror}; name a Python file of your own") from error
    try:
        return content, compile(content, os.path.realpath(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or "?"
        raise ValueError(f"--plugin {path}, line {line}: {type(error).__name__}: {error}") from error


def load_plugins(paths: Sequence[str]) -> tuple[Plugin, ...]:
    """Run the files that the user named, each once in a process; returns them, each once.

    Raises: ValueError as `check_plugin`, and for a file that raises, with its line.
    """
    return tuple(dict.fromkeys(_load(path) for path in paths))


def loaded_plugins() -> tuple[Plugin, ...]:
    """Those that this process has loaded."""
    return tuple(_loaded.values())


def registers(kind: str, by: str = "name") -> Callable[[Callable[[T], Any]], Callable[[T], Any]]:
    """Decorates a function that registers one thing of this kind: what a plugin registers is noted as its own.

    Args:
        by: attribute of the thing that holds its name.
    """

    def decorate(function: Callable[[T], Any]) -> Callable[[T], Any]:
        @functools.wraps(function)
        def register(thing: T) -> Any:
            key = f"{kind} {getattr(thing, by, None)}"
            try:
                done = function(thing)
            except ValueError as error:
                if key in _owners:
                    raise ValueError(f"{error}; this one is of --plugin {_owners[key].file}") from error
                raise
            if _running:
                _running[-1].append(key)
            return done

        return register

    return decorate


def plugin_of(kind: str, name: str) -> Plugin | None:
    """The loaded plugin that registered this; None where none did."""
    return _owners.get(f"{kind} {name}")


def needed(things: Iterable[tuple[str, str]], recorded: Any = None) -> list[dict[str, Any]]:
    """The records of the plugins that these things, (kind, name), come from: of those loaded, else of `recorded`, what
    was written before."""
    before = {key: plugin for plugin in read_records(recorded) for key in plugin.registers}
    keys = [f"{kind} {name}" for kind, name in things]
    found = [_owners.get(key) or before.get(key) for key in keys]
    return [plugin.to_dict() for plugin in dict.fromkeys(found) if plugin is not None]


def read_records(records: Any) -> list[Plugin]:
    """What `to_dict` wrote, from a file that may hold anything; what is no record is passed over."""
    found = []
    for one in records[:MOST] if isinstance(records, list) else ():
        texts = [one.get("file"), one.get("sha256")] if isinstance(one, dict) else []
        own = one.get("registers") if texts else None
        if isinstance(own, list) and all(isinstance(text, str) and text.isprintable() for text in [*texts, *own]):
            found.append(Plugin(texts[0][:MOST], texts[1][:64], tuple(text[:MOST] for text in own[:MOST])))
    return found


def remember(records: Any) -> None:
    """Keep what a folder says of its plugins for the errors about what is unknown here, see `remedy`. A loaded plugin
    that is another file than the one recorded is told once."""
    for plugin in read_records(records):
        for key in plugin.registers:
            owner = _owners.get(key)
            if owner is not None and owner.sha256 != plugin.sha256 and _recorded.get(key) != plugin:
                logger.warning("%s is not the file recorded for %s: that was %s", owner, key, plugin)
            _recorded[key] = plugin


def remedy(kind: str, name: Any, register: str) -> str:
    """What to do about a name that nobody registered: name the file that a folder read here names, or one's own."""
    plugin = _recorded.get(f"{kind} {name}")
    if plugin is not None:
        return f"it was made with {plugin}, which registers it: name that file again"
    return f"one of your own is registered first (--plugin FILE.py, or {register})"


def _load(path: str) -> Plugin:
    content, code = check_plugin(path)
    real = os.path.realpath(path)
    if real in _loaded:
        return _loaded[real]
    # Under its bare name it would shadow, or be taken for, an installed module.
    name = f"cambrian_gaze_plugin_{hashlib.sha256(real.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
    module = ModuleType(name)
    module.__file__ = real
    sys.modules[name] = module  # dataclasses look their module up
    own: list[str] = []
    _running.append(own)
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ValueError(f"--plugin {path}, line {_line(error, real)}: {_said(error)}") from error
    finally:
        _running.pop()
    plugin = Plugin(os.path.basename(path), hashlib.sha256(content).hexdigest(), tuple(dict.fromkeys(own)))
    _loaded[real] = plugin
    _owners.update(dict.fromkeys(own, plugin))
    if not own and os.environ.get("RANK", "0") == "0":
        logger.warning("--plugin %s registers nothing: no %s or %s", path, ", ".join(KINDS[:-1]), KINDS[-1])
    return plugin


def _line(error: BaseException, real: str) -> int | str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == real]
    return (lines[-1] if lines else None) or "?"


def _said(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "it ends the program (SystemExit); a plugin registers, and nothing else"
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    if isinstance(error, ModuleNotFoundError):
        return f"{text}; the file alone is loaded: install the module, or put its folder into PYTHONPATH"
    return text
