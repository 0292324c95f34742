"""The viewer's script, run without a browser."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cambrian_gaze.viz.trace import Trace
from cambrian_gaze.viz.viewer import viewer_data

ASSETS = Path(__file__).parents[2] / "cambrian_gaze" / "assets" / "viewer"


def in_node(trace: Trace, script: str, folder: Path) -> Any:
    """What `script` logs as JSON, with the page's own `trace` in its scope; skips the test where there is no Node."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node on this machine: the page's script was not run")
    data = folder / "data.json"
    data.write_text(json.dumps(viewer_data(trace)))
    whole = (
        f"const {{ Trace }} = require({json.dumps(str(ASSETS / 'trace.js'))});"
        f"Trace.from(JSON.parse(require('fs').readFileSync({json.dumps(str(data))}))).then((trace) => {{{script}}});"
    )
    out = subprocess.run([node, "-e", whole], capture_output=True, text=True, timeout=60)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)
