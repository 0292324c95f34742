"""Registers Cambrian-Gaze with the Auto classes of transformers, at the moment somebody can use them.

Registering needs the model classes, which import torch and much of transformers: several seconds that neither
`cambrian-gaze --help` nor `import cambrian_gaze.gaze` should wait for. So `import cambrian_gaze` registers at once only
if transformers' Auto classes are already loaded; otherwise it watches for them with a finder on `sys.meta_path`, which
finds nothing by itself, but sees imports begin and end.

It does not register in the middle of an import: transformers loads its Auto classes while half of its own modules (or
ours) are still being executed, and importing the model classes there would run in circles. The finder counts how deep
the imports of transformers and of this package are nested, and registers when the outermost one is complete. Then it
takes itself off `sys.meta_path`.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_WATCHED = ("transformers", "cambrian_gaze")
_AUTO_CLASSES = "transformers.models.auto.configuration_auto"


def install() -> None:
    """Register now if the Auto classes are loaded, else as soon as they are. Calling it again does nothing."""
    if _AUTO_CLASSES in sys.modules:
        _register()
    elif not any(isinstance(finder, _AutoClassWatch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AutoClassWatch())


def _register() -> None:
    importlib.import_module("cambrian_gaze.models.auto").register()


class _AutoClassWatch(MetaPathFinder):
    """Sees the imports of `_WATCHED` packages; registers when the outermost ends with the Auto classes loaded."""

    def __init__(self) -> None:
        self._nesting = threading.local()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in _WATCHED:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _WatchedLoader(spec.loader, self)
        return spec

    def begin(self) -> None:
        self._nesting.depth = getattr(self._nesting, "depth", 0) + 1

    def end(self, succeeded: bool) -> None:
        self._nesting.depth -= 1
        if succeeded and self._nesting.depth == 0 and _AUTO_CLASSES in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            _register()


class _WatchedLoader:
    """The real loader, with its `exec_module` between `begin` and `end`; leaves no trace of itself on the module."""

    def __init__(self, loader: Loader, watch: _AutoClassWatch) -> None:
        self._loader = loader
        self._watch = watch

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._watch.begin()
        succeeded = False
        try:
            self._loader.exec_module(module)
            succeeded = True
        finally:
            self._watch.end(succeeded)
