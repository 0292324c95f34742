"""Rules of CONTRIBUTING.md about the shape of the package, which neither ruff nor import-linter can hold."""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "cambrian_gaze"
MAX_LINES, MAX_FILES, MAX_PARAMETERS = 300, 20, 8
MANY_PARAMETERS = {
    "gaze_attention_forward": "transformers calls every attention function with these",
}
"""Functions on which a foreign convention forces more than `MAX_PARAMETERS`, and which one."""


def module_name(path: Path, root: Path = ROOT) -> str:
    """`a/b/__init__.py` is `a.b`."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imports_of(tree: ast.AST, name: str, is_package: bool) -> set[str]:
    """Everything that a module may mean by its imports, wherever they stand: in functions, under TYPE_CHECKING, and as
    `import_module("a.b")`. `from a import b` yields `a` and `a.b`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: None if is_package else -1]
            base = base[: len(base) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and "import_module" in ast.dump(node.func):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return found


def import_graph(package: Path) -> dict[str, set[str]]:
    """Which module of a package imports which other one. `from a import b` is an edge to module `a.b` where there is
    one, and to `a` otherwise. The package itself is left out: importing any module of it runs its `__init__` first."""
    paths = {module_name(path, package.parent): path for path in sorted(package.rglob("*.py"))}
    graph: dict[str, set[str]] = {}
    for name, path in paths.items():
        wanted = imports_of(ast.parse(path.read_text(encoding="utf-8")), name, path.name == "__init__.py")
        known = wanted & set(paths)
        named = {w.rpartition(".")[0] for w in known}  # `a` of `from a import b`, where module `a.b` is what is meant
        plain = {w.rpartition(".")[0] for w in wanted - set(paths)}
        graph[name] = {w for w in known if w not in named or w in plain} - {name, package.name}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module, by Kosaraju's two passes."""
    order: list[str] = []
    seen: set[str] = set()

    def walk(node: str, edges: dict[str, set[str]], out: list[str]) -> None:
        seen.add(node)
        stack = [(node, iter(sorted(edges[node])))]
        while stack:
            for successor in stack[-1][1]:
                if successor not in seen:
                    seen.add(successor)
                    stack.append((successor, iter(sorted(edges[successor]))))
                    break
            else:
                out.append(stack.pop()[0])

    for node in sorted(graph):
        if node not in seen:
            walk(node, graph, order)
    backwards: dict[str, set[str]] = defaultdict(set)
    for node, successors in graph.items():
        for successor in successors:
            backwards[successor].add(node)
    seen.clear()
    found = []
    for node in reversed(order):
        if node not in seen:
            walk(node, backwards, component := [])
            found.append(sorted(component))
    return [component for component in found if len(component) > 1]


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names of a function's parameters but for `self`, `cls`, `*args` and `**kwargs`."""
    given = function.args
    names = [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def functions_of(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function with its name, `Class.function` for methods; no `forward` and no Triton kernels."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            is_kernel = any(ast.unparse(decorator).startswith("triton.jit") for decorator in child.decorator_list)
            if child.name != "forward" and not is_kernel:
                yield prefix + child.name, child
        inner = f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix
        yield from functions_of(child, inner)


MODULES = sorted(PACKAGE.rglob("*.py"))


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert not circles(import_graph(PACKAGE)), "read one after the other, the files of a circle never end"


def test_packages_are_small_enough_to_list() -> None:
    folders = {path.parent for path in MODULES}
    counts = {folder.relative_to(ROOT).as_posix(): len(list(folder.glob("*.py"))) for folder in folders}
    assert not {folder: count for folder, count in counts.items() if count > MAX_FILES}


def test_modules_are_short_enough_to_read() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES
    }
    assert not {path: length for path, length in lengths.items() if length > MAX_LINES}, "it probably holds two things"


def test_functions_take_few_parameters() -> None:
    many, excused = {}, set()
    for path in MODULES:
        for name, function in functions_of(ast.parse(path.read_text(encoding="utf-8"))):
            if (count := len(parameters(function))) <= MAX_PARAMETERS:
                continue
            if name in MANY_PARAMETERS:
                excused.add(name)
            else:
                many[f"{path.relative_to(ROOT).as_posix()}: {name}"] = count
    assert not many
    assert excused == set(MANY_PARAMETERS), "these have become short enough"


def test_modules_say_what_they_are() -> None:
    mute = [path for path in MODULES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert not mute, "a module begins with a docstring"


def test_the_floors_of_contributing_are_those_of_import_linter() -> None:
    rows = re.findall(r"^\| (\d+|ground) \| (.+?) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    told = [set(re.findall(r"`(\w+)`", packages)) for _, packages in rows]
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = pyproject["tool"]["importlinter"]["contracts"][0]["layers"]
    assert told == [set(re.split(r"[\s|:]+", layer.strip())) for layer in layers]
    assert [floor for floor, _ in rows] == [*map(str, reversed(range(len(layers) - 1))), "ground"]
    for (floor, packages), layer in zip(rows, layers, strict=True):
        apart = re.search(r"\((none imports another|neither imports the other)\)", packages)
        assert bool(apart) == ("|" in layer and floor != "ground"), f"floor {floor}"
    there = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    there |= {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "auto_hook", "moved"}
    assert there == set().union(*told), "each package stands on one floor"


@pytest.mark.parametrize(
    ("section", "test"),
    [
        ("A region descriptor", "descriptor"),
        ("A benchmark", "benchmark"),
        ("An attention backend", "backend"),
        ("A vision tower", "tower"),
        ("An eviction policy", "policy"),
    ],
)
def test_what_newcomers_add_takes_ten_lines_and_was_done(section: str, test: str) -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (text,) = re.findall(rf"^### {section}\n(.*?)(?=^##)", contributing, re.MULTILINE | re.DOTALL)
    assert len([line for line in text.splitlines() if line]) <= 10
    assert f"`tests/newcomer/test_{test}.py`" in text and (ROOT / "tests" / "newcomer" / f"test_{test}.py").is_file()


def write_package(folder: Path, **modules: str) -> Path:
    """A package `p` with these modules; `a__b` is `a/b.py`."""
    package = folder / "p"
    for name, text in {"__init__": "", **modules}.items():
        path = package.joinpath(*name.split("__") if not name.startswith("__") else [name]).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    return package


@pytest.mark.parametrize(
    "back",
    [
        "from p import a",
        "import p.a",
        "from p.a import f",
        "from .a import f",
        "from . import a",
        "def g():\n    from p.a import f",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import f",
        "import importlib\ndef g():\n    importlib.import_module('p.a')",
    ],
)
def test_a_circle_is_found(tmp_path: Path, back: str) -> None:
    package = write_package(tmp_path, a="from p.b import g", b="from p import c", c=back, d="from p import a")
    assert circles(import_graph(package)) == [["p.a", "p.b", "p.c"]]


def test_what_is_no_circle(tmp_path: Path) -> None:
    package = write_package(tmp_path, a="from p import b, c", b="from p.q import r", c="", q__r="from p import c")
    assert circles(import_graph(package)) == []


def test_parameters_are_counted() -> None:
    tree = ast.parse(
        "class A:\n    def f(self, a, /, b, *c, d=1, **e): ...\n    def forward(self): ...\n"
        "async def g(a, *, b): ...\n@triton.jit\ndef k(a): ..."
    )
    assert {name: parameters(f) for name, f in functions_of(tree)} == {"A.f": ["a", "b", "d"], "g": ["a", "b"]}
