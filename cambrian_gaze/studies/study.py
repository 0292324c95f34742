"""A study as its YAML file in `eval/studies` states it, and the sizes in which it runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cambrian_gaze.declarations import REPOSITORY, SHIPPED, declaration
from cambrian_gaze.gazebench.spec import GazeBenchSpec
from cambrian_gaze.quickstart.arms import Arm
from cambrian_gaze.quickstart.pretrain_tower import TowerSpec
from cambrian_gaze.studies.steering import STEERINGS

FOLDER = Path("eval", "studies")
SIZES = FOLDER / "sizes.yaml"
SIZE_NAMES = ("smoke", "cpu", "gpu")


@dataclass(frozen=True)
class Size:
    """How large a study is: its data, tower, models and number of seeds."""

    name: str
    seeds: tuple[int, ...]
    data: Mapping[str, Any]
    """Knobs of GazeBench; a study's own come on top."""
    tower: Mapping[str, Any]
    """Fields of `TowerSpec`."""
    training: Mapping[str, Any]
    """Flags of every training run; a model's own come on top."""
    kinds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Kind of a model → flags that go between those of all and its own."""
    batch_size: int = 128
    """Questions answered at a time."""
    threads: int = 1
    """Of a process on the CPU."""


@dataclass(frozen=True)
class Study:
    """One comparison."""

    name: str
    title: str
    asks: str
    """The question in one sentence."""
    models: Mapping[str, Mapping[str, Any]]
    """Model → flags of `cambrian-gaze train`; `start` names another model whose weights it begins with, `kind` flags of
    the size, `data` knobs of the pages that it is trained on where they are not those of the questions."""
    arms: tuple[Arm, ...]
    masked: frozenset[str]
    """Arms that see the pages with the cells that the answer needs painted over."""
    against: str
    """The arm with which the others are compared in pairs."""
    data: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    """What the authors report for the same question, or what is to be kept in mind."""
    lines: tuple[str, ...] = ()
    """Arms that are drawn by place in the answer, at most four."""
    steered: Mapping[str, str] = field(default_factory=dict)
    """Arm → what is hidden from its answers, a name of `STEERINGS`."""
    routing: tuple[str, ...] = ()
    """Arms, without a policy, of which it is recorded and drawn where their heads look."""
    x: Mapping[str, float] = field(default_factory=dict)
    """Arm → place on a budget axis; of a study that is drawn as a curve."""
    x_label: str = ""

    def bench(self, size: Size, seed: int, model: str | None = None) -> GazeBenchSpec:
        """The data of a seed; with a model, those that it is trained on."""
        own = self.models[model].get("data", {}) if model is not None else {}
        return GazeBenchSpec.from_dict({**size.data, **self.data, **own, "seed": seed})

    def tower(self, size: Size, seed: int) -> TowerSpec:
        """The tower of a seed."""
        return TowerSpec(**{**size.tower, "seed": seed})

    def flags(self, size: Size, model: str) -> dict[str, Any]:
        """What a model's training is told, `start`, `kind` and `data` apart; regions are those of the study's pages."""
        own = {name: value for name, value in self.models[model].items() if name not in ("start", "kind", "data")}
        kind = self.models[model].get("kind")
        if kind is not None and kind not in size.kinds:
            raise ValueError(f"{model}: size {size.name} has no kind {kind!r}; known: {', '.join(size.kinds)}")
        return {**size.training, **self._regions(size), **(size.kinds[kind] if kind else {}), **own}

    def _regions(self, size: Size) -> dict[str, Any]:
        """Of the pages, in visual tokens; empty where the study leaves them to the size."""
        if "regions" not in self.data:
            return {}
        tower = self.tower(size, seed=0)
        side = tower.image_size // tower.patch_size
        return {"region_size": [1, *(side // count for count in self.data["regions"])]}


def read_study(name: str | Path) -> Study:
    """The study of a file, or of that name in `eval/studies`.

    Raises: ValueError where there is none, or it makes no sense.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in known_studies():
            raise ValueError(f"no study {str(name)!r}; known: {', '.join(known_studies())}, or a YAML file")
        path = FOLDER / f"{name}.yaml"
    values = _read(path)
    _known(values, {one.name for one in dataclasses.fields(Study)} - {"name", "masked", "steered"}, path)
    arms, masked, steered, x = [], set(), {}, {}
    for row in values.pop("arms"):
        row = dict(row)
        if row.pop("masked", False):
            masked.add(row["name"])
        if "steer" in row:
            steered[row["name"]] = row.pop("steer")
        if "x" in row:
            x[row["name"]] = float(row.pop("x"))
        _known(row, {one.name for one in dataclasses.fields(Arm)} - {"checkpoint"} | {"model"}, path)
        row["checkpoint"] = row.pop("model")
        arms.append(Arm(**row))
    values |= {name: tuple(values.get(name, ())) for name in ("lines", "routing")}
    study = Study(name=path.stem, arms=tuple(arms), masked=frozenset(masked), steered=steered, x=x, **values)
    _check(study, path)
    return study


def known_studies() -> list[str]:
    """Names of the studies that come with the project."""
    root = SHIPPED if SHIPPED.is_dir() else REPOSITORY
    return sorted(path.stem for path in (root / FOLDER).glob("*.yaml") if path.stem != SIZES.stem)


def read_size(name: str) -> Size:
    """One of the sizes of `eval/studies/sizes.yaml`. Raises ValueError for another name."""
    sizes = _read(SIZES)
    if name not in sizes:
        raise ValueError(f"no size {name!r}; known: {', '.join(sizes)}")
    values = dict(sizes[name])
    values["seeds"] = tuple(values["seeds"])
    return Size(name=name, **values)


def identity(*parts: Any) -> str:
    """Twelve characters that stand for what a result depends on."""
    import hashlib

    text = json.dumps(parts, sort_keys=True, default=lambda part: dataclasses.asdict(part))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read(path: Path) -> dict[str, Any]:
    values = yaml.safe_load(declaration(path).read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold names and values")
    return values


def _known(values: Mapping[str, Any], names: set[str], path: Path) -> None:
    if unknown := sorted(set(values) - names):
        raise ValueError(f"{path}: unknown {', '.join(unknown)}; known: {', '.join(sorted(names))}")


def _check(study: Study, path: Path) -> None:
    names = [arm.name for arm in study.arms]
    if len(set(names)) < len(names) or study.against not in names:
        raise ValueError(f"{path}: names of arms must differ and hold {study.against!r}, got {', '.join(names)}")
    before: list[str] = []
    for model, flags in study.models.items():
        if (start := flags.get("start")) is not None and start not in before:
            raise ValueError(f"{path}: {model} starts from {start!r}, which is no model before it")
        try:
            GazeBenchSpec.from_dict({**study.data, **flags.get("data", {})})
        except ValueError as error:
            raise ValueError(f"{path}: data of {model}: {error}") from None
        before.append(model)
    if missing := sorted({arm.checkpoint for arm in study.arms} - set(before)):
        raise ValueError(f"{path}: arms name models that are not there: {', '.join(missing)}")
    if unknown := sorted(set(study.steered.values()) - set(STEERINGS)):
        raise ValueError(f"{path}: unknown steer {', '.join(unknown)}; known: {', '.join(STEERINGS)}")
    if wrong := sorted(set(study.routing) - {arm.name for arm in study.arms if not arm.policy}):
        raise ValueError(f"{path}: routing names {', '.join(wrong)}, which are no arms without a policy")
