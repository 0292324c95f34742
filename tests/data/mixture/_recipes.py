"""Small data files, and recipes over them."""

from pathlib import Path

from cambrian_gaze.data.mixture.mixture import Mixture
from tests.data._stand_ins import turns, write_jsonl


def data(folder: Path, name: str, count: int) -> Path:
    return write_jsonl(folder / name, [{"id": f"{name}:{i}", "conversations": turns("q", "a")} for i in range(count)])


def recipe(folder: Path, text: str) -> Path:
    file = folder / "mix.yaml"
    file.write_text(text)
    return file


def ids(mixture: Mixture) -> list[str]:
    return [mixture.records[source][row].id for source, row in map(mixture.locate, range(len(mixture)))]
