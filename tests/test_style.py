"""Rules of CONTRIBUTING.md about what stands in the files; `test_house.py` has those about the package's shape."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "cambrian_gaze"
MODULES = sorted(PACKAGE.rglob("*.py"))
LAZY_ONLY = {
    *("deepspeed", "datasets", "pyarrow", "wandb", "decord", "av", "flash_attn", "peft", "torchao", "bitsandbytes"),
    *("lmms_eval", "fastapi", "matplotlib"),
}
"""Imported inside the functions that need them, so that everything else works without them."""


def module_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def top_level_imports(path: Path) -> set[str]:
    """First components of what a module imports when it is imported itself."""
    names: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        pending += ast.iter_child_nodes(node)
    return names


def test_optional_dependencies_are_imported_where_they_are_used() -> None:
    early = {module_id(path): top_level_imports(path) & LAZY_ONLY for path in MODULES}
    assert not {path: names for path, names in early.items() if names}


def test_open_ends_are_not_left_in_the_code() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX)\b")
    assert not [module_id(path) for path in MODULES if marks.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("script", sorted([*ROOT.glob("scripts/**/*.s[hb]*"), *ROOT.glob(".ci/*")]), ids=module_id)
def test_shell_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    if script.parent.name != "lib":
        assert script.stat().st_mode & 0o111, "not executable"
        assert "set -euo pipefail" in script.read_text()
