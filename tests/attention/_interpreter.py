"""Tests of Triton kernels in Triton's interpreter.

TRITON_INTERPRET must be set before triton is imported, and not for the rest of the suite: a test that
`run_interpreted(__file__)` runs its file again in a process of its own, where the tests marked `interpreter` run.
"""

import importlib.util
import os
import subprocess
import sys

import pytest

INSTALLED = importlib.util.find_spec("triton") is not None
INTERPRETED = INSTALLED and os.environ.get("TRITON_INTERPRET") == "1"
interpreter = pytest.mark.skipif(not INTERPRETED, reason="runs within test_in_the_interpreter")
compiled = pytest.mark.skipif(not INSTALLED or INTERPRETED, reason="needs triton, not interpreted")


def run_interpreted(file):
    env = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu", file]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed" in result.stdout


@pytest.fixture(autouse=INTERPRETED)
def scalars(monkeypatch):
    """Triton's interpreter before 3.7 makes integers of arrays of one element, which NumPy 2.4 refuses."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor, scope, *args):
        patch(tensor, scope, *args)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patched)
