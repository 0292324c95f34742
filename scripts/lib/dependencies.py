"""For scripts/canary.sh: the declared dependencies without their bounds, and what is installed beside the lock."""

from __future__ import annotations

import importlib.metadata as metadata
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared(name: str, extra: str) -> list[Requirement]:
    """Requirements of the project with one of its extras, those of extras that it names included."""
    texts = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]
    found = []
    for requirement in map(Requirement, texts):
        if requirement.name == name:
            for inner in sorted(requirement.extras):
                found += declared(name, inner)
        else:
            found.append(requirement)
    return found


def names() -> list[str]:
    """Each dependency once, with its extras and its marker, without any version."""
    lines = set()
    for requirement in declared(PROJECT["name"], "all"):
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        marker = f" ; {requirement.marker}" if requirement.marker else ""
        lines.add(f"{requirement.name}{extras}{marker}")
    return sorted(lines)


def locked(lock: Path) -> dict[str, str]:
    """Package → version, of those whose marker holds here."""
    requirements = [Requirement(line) for line in lock.read_text().splitlines() if line and line[0] != "#"]
    return {
        _key(one.name): str(one.specifier).removeprefix("==")
        for one in requirements
        if one.marker is None or one.marker.evaluate()
    }


def compare(lock: Path) -> list[str]:
    """A Markdown table of the packages that are installed in another version than the lock holds."""
    held, direct = locked(lock), {_key(one.name): one.specifier for one in declared(PROJECT["name"], "all")}
    rows = []
    for found in metadata.distributions():
        name, now = _key(found.name), found.version.partition("+")[0]
        if name in held and held[name] != now:
            within = "" if name not in direct else "in range" if direct[name].contains(now) else "beyond the range"
            rows.append((name not in direct, f"| {name} | {held[name]} | {now} | {within} |"))
    if not rows:
        return ["Nothing is newer than the lock."]
    return ["| package | lock | newest | pyproject |", "|---|---|---|---|", *(row for _, row in sorted(rows))]


def _key(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


if __name__ == "__main__":
    print("\n".join(names() if sys.argv[1] == "names" else compare(Path(sys.argv[2]))))
