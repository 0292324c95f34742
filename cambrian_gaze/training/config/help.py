"""The help of a run's keys, read off the source of the arguments' modules: `train --help` imports no torch."""

from __future__ import annotations

import ast
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

SOURCES = (
    *("model_arguments.py", "gaze_arguments.py", "data_arguments.py", "arguments.py", "lora_arguments.py"),
    "task_arguments.py",
)
"""Modules of the dataclasses in `arguments.ARGUMENT_CLASSES`, in the same order."""

USAGE = "cambrian-gaze train [CONFIG.yaml] [--nproc_per_node N] [--key value …]"


class Key(NamedTuple):
    """A field of a dataclass, and the docstring under it."""

    name: str
    kind: str
    text: str


def documented() -> dict[str, list[Key]]:
    """Dataclass → its fields that have a docstring; only those of the class itself."""
    return {node.name: _fields(node) for node in _dataclasses()}


def short_help() -> str:
    """Usage and this project's own keys, grouped by dataclass, with their docstrings."""
    lines = [f"usage: {USAGE}", "", "Every key is a field of a YAML file in train/configs and a flag."]
    for node in _dataclasses():
        lines += ["", ast.get_docstring(node).splitlines()[0]]
        lines += [line for key in _fields(node) for line in _entry(key)]
    lines += ["", "All of transformers' TrainingArguments are keys too: 'cambrian-gaze train --help_all' lists them."]
    return "\n".join(lines)


def _dataclasses() -> list[ast.ClassDef]:
    trees = [ast.parse(Path(__file__).with_name(name).read_text(encoding="utf-8")) for name in SOURCES]
    return [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef) and node.decorator_list]


def _fields(node: ast.ClassDef) -> list[Key]:
    found = []
    for field, after in zip(node.body, node.body[1:], strict=False):
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and is_text:
            found.append(Key(field.target.id, ast.unparse(field.annotation), " ".join(after.value.value.split())))
    return found


def _entry(key: Key) -> list[str]:
    indent = " " * 6
    return [f"  --{key.name}  {key.kind}", fill(key.text, 100, initial_indent=indent, subsequent_indent=indent)]
