"""Steps that are done once: each leaves a marker, and is skipped where the marker says the same thing was done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze.files import write_text


class Steps:
    """Runs steps in order. A step's identity covers its own settings and all steps before it."""

    def __init__(self, folder: Path, force: bool = False) -> None:
        self.folder = folder
        self.force = force
        self.seconds: dict[str, float] = {}
        """Time that each step took when it was done, over all its attempts."""
        self._results: dict[str, Any] = {}
        self._chain = ""

    def run(
        self,
        name: str,
        settings: Any,
        outputs: Sequence[Path],
        action: Callable[[], dict[str, Any]],
        resumes: bool = False,
    ) -> None:
        """Do a step unless it is done.

        Args:
            settings: JSON types or a dataclass; a change of them, or of an earlier step's, does the step anew.
            outputs: folders that the step writes; removed before it starts, except where it resumes.
            action: does the work and returns a small JSON object, of which the step's one-line summary is made.
            resumes: the action continues from its own unfinished output of the same identity.

        Raises: ValueError where an output exists that no earlier run of the step left, before anything is removed.
        """
        if dataclasses.is_dataclass(settings):
            settings = dataclasses.asdict(settings)
        self._chain = hashlib.sha256(json.dumps([self._chain, name, settings], sort_keys=True).encode()).hexdigest()
        path = self.folder / f"{name.replace(' ', '_')}.json"
        marker = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        strange = [str(output) for output in outputs if output.exists() and not marker]
        if strange:
            raise ValueError(f"{', '.join(strange)}: exists, but no earlier run left it; choose another --output_dir")
        same = marker.get("identity") == self._chain and not self.force
        if same and marker["done"] and all(output.exists() for output in outputs):
            self._finish(name, marker, "already done")
            return
        spent = marker["seconds"] if same and resumes and not marker["done"] else 0.0
        if not (same and resumes):
            for output in outputs:
                shutil.rmtree(output, ignore_errors=True)
        marker = {"identity": self._chain, "done": False, "seconds": spent, "result": None}
        write_text(path, json.dumps(marker))
        print(f"== {name}", flush=True)
        start = time.perf_counter()
        try:
            result = action()
        except BaseException:
            write_text(path, json.dumps({**marker, "seconds": spent + time.perf_counter() - start}))
            raise
        marker.update(done=True, seconds=spent + time.perf_counter() - start, result=result)
        write_text(path, json.dumps(marker))
        self._finish(name, marker, "done")

    def result(self, name: str) -> Any:
        """What the step's action returned, in this run or in the one that did it."""
        return self._results[name]

    def _finish(self, name: str, marker: dict[str, Any], how: str) -> None:
        self.seconds[name] = marker["seconds"]
        self._results[name] = marker["result"]
        numbers = [
            f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value:,}"
            for key, value in marker["result"].items()
            if isinstance(value, int | float)
        ]
        print(f"== {name}: {how}, {marker['seconds']:.0f} s" + "".join(f", {n}" for n in numbers), flush=True)
