"""`cambrian-gaze train --help` without importing torch: read off the source of the arguments' modules."""

from __future__ import annotations

import ast
from pathlib import Path
from textwrap import fill

SOURCES = ("arguments.py", "gaze_arguments.py", "lora_arguments.py", "task_arguments.py")
"""Modules of the dataclasses in `arguments.ARGUMENT_CLASSES`."""

USAGE = "usage: cambrian-gaze train [CONFIG.yaml] [--nproc_per_node N] [--key value …]"


def short_help() -> str:
    """Usage and this project's own keys, grouped by dataclass, with their docstrings."""
    lines = [USAGE, "", "Every key is a field of a YAML file in train/configs and a flag."]
    sources = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in SOURCES]
    for node in (node for source in sources for node in ast.parse(source).body):
        if isinstance(node, ast.ClassDef) and node.decorator_list:
            lines += ["", f"{ast.get_docstring(node).splitlines()[0]}"]
            lines += [line for name, kind, text in _fields(node) for line in _entry(name, kind, text)]
    lines += ["", "All of transformers' TrainingArguments are keys too: 'cambrian-gaze train --help_all' lists them."]
    return "\n".join(lines)


def _fields(node: ast.ClassDef) -> list[tuple[str, str, str]]:
    """(name, type, docstring) of the fields of a dataclass that have a docstring."""
    found = []
    for field, after in zip(node.body, node.body[1:], strict=False):
        documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and documented:
            found.append((field.target.id, ast.unparse(field.annotation), after.value.value))
    return found


def _entry(name: str, kind: str, text: str) -> list[str]:
    indent = " " * 6
    return [f"  --{name}  {kind}", fill(" ".join(text.split()), 100, initial_indent=indent, subsequent_indent=indent)]
