"""Modules that have moved: their old names still import, with a DeprecationWarning, for one release.

A module that became a package of the same name gives the names of its old content (`content_of`); any other old name is
found by a finder on `sys.meta_path`, which looks up a table and imports nothing by itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

ROOT = "cambrian_gaze"

_INTO = {
    "attention.choice": "auto kept run_choice trial",
    "attention.varlen": "blocks merge segments",
    "data.inspect": "check preview stats survey",
    "data.media": "aspect bare clips containers decoder_notes decoders depth frame_sampling isolated video wholeness",
    "data.mixture": "lengths packing plan recipe_file sampling selection streams",
    "data.records": "forms index places scan tables",
    "evaluation.cost": "counts",
    "evaluation.tables": "columns intervals",
    "models.cache": "page_pool paging",
    "models.conversion": "backbones cambrian from_cambrian initialise key_report model_writer shard_writer shards "
    "to_cambrian",
    "models.folders": "adapter_check folder_check generation_check lineage opening pattern_probe processor_check "
    "source template_probe",
    "models.processing": "messages pictures",
    "models.visual": "projector",
    "training.checkpoint": "continuation pickles projector resume states",
    "training.config": "accepted arguments flags foreign gaze_arguments help layers lora_arguments places "
    "task_arguments",
    "training.estimate": "plan",
    "training.faults": "bad_steps lock orphan watchdog",
    "training.launch": "agent batch group ranks requests",
    "training.metrics": "eval_loss flops log loss_split meter probe samples summary task_scores",
    "training.order": "position",
}
"""Package → modules that lay beside it."""

_RENAMED = {
    "attention.flash_varlen": "attention.varlen.backend",
    "attention.measure": "measure",
    "attention.triton_regions": "attention.triton.backend",
    "data.images": "data.media.aspect",
    "data.inspection": "data.inspect.record",
    "models.cache_layer": "models.cache.layer",
    "models.processor_options": "models.processing.options",
    "models.processor_rows": "models.processing.rows",
    "models.serve": "serving",
    "models.writing": "files",
    "training.card": "hub.card",
    "training.card_dense": "hub.card_dense",
    "training.hub": "hub.push",
    "training.plan_data": "training.estimate.data",
    "training.plan_flops": "training.estimate.flops",
    "training.plan_memory": "training.estimate.memory",
    "viz.files": "files",
    **{f"models.serve.{name}": f"serving.{name}" for name in "app chat fields jobs limits media protocol".split()},
    **{f"models.serve.{name}": f"serving.{name}" for name in "refusal server stop".split()},
}

MOVED = {
    f"{ROOT}.{old}": f"{ROOT}.{new}"
    for old, new in {
        **{
            f"{pack.rpartition('.')[0]}.{name}": f"{pack}.{name}"
            for pack, names in _INTO.items()
            for name in names.split()
        },
        **_RENAMED,
    }.items()
}
"""Old → new name."""

_PACKAGES = {old for old in MOVED if any(other.startswith(f"{old}.") for other in MOVED)}


def install() -> None:
    """Find old names from now on. Calling it again does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def content_of(package: str, module: str) -> Callable[[str], object]:
    """The `__getattr__` of a package that was a module: names of `module`, which holds what it held."""

    def look_up(name: str) -> object:
        if not name.startswith("__") and importlib.util.find_spec(f"{package}.{name}") is None:
            content = importlib.import_module(module)
            if hasattr(content, name):
                _warn(f"{package}.{name}", f"{module}.{name}")
                return getattr(content, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return look_up


class _Finder(MetaPathFinder, Loader):
    """Comes last, for names that nobody else finds."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=name in _PACKAGES) if name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """The old name's module has the names of the new one."""
        new = MOVED[module.__name__]
        _warn(module.__name__, new)
        content = importlib.import_module(new)
        module.__dict__.update({name: value for name, value in vars(content).items() if not name.startswith("__")})


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is {new} now; the old name goes with the next release", DeprecationWarning, stacklevel=2)
