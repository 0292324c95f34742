"""Old names of modules still import, say so, and hold what their new homes hold."""

import importlib
import subprocess
import sys

import pytest

from cambrian_gaze.moved import MOVED

NEEDS_MORE = {"cambrian_gaze.attention.triton_regions"}  # triton is optional


@pytest.mark.parametrize("old", sorted(set(MOVED) - NEEDS_MORE))
def test_an_old_name_imports_what_moved(old: str) -> None:
    for name in [name for name in sys.modules if name == old or name.startswith(f"{old}.")]:
        del sys.modules[name]
    with pytest.warns(DeprecationWarning, match="goes with the next release"):
        module = importlib.import_module(old)
    new = importlib.import_module(MOVED[old])
    public = [name for name in vars(new) if not name.startswith("_")]
    assert all(getattr(module, name) is getattr(new, name) for name in public)


@pytest.mark.parametrize(
    "old, name",
    [
        ("cambrian_gaze.data.media", "load_image"),
        ("cambrian_gaze.data.records", "parse_record"),
        ("cambrian_gaze.data.mixture", "Mixture"),
        ("cambrian_gaze.models.processing", "CambrianGazeProcessor"),
        ("cambrian_gaze.models.cache", "GazeCache"),
        ("cambrian_gaze.attention.policy", "VisiblePolicy"),
        ("cambrian_gaze.training.config", "load"),
    ],
)
def test_a_module_that_is_a_package_now_gives_its_old_names(old: str, name: str) -> None:
    with pytest.warns(DeprecationWarning, match=name):
        assert getattr(importlib.import_module(old), name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing_of_this_name'"):
        importlib.import_module(old).nothing_of_this_name  # noqa: B018


def test_nothing_is_imported_before_somebody_asks() -> None:
    code = "import sys, cambrian_gaze; print([m for m in sys.modules if m.startswith(('torch', 'cambrian_gaze.'))])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "['cambrian_gaze.auto_hook', 'cambrian_gaze.moved']"
