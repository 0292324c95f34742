"""Bridge to lmms-eval 0.7.3: our models for its tasks, our benchmarks and scorers for its command line."""

from __future__ import annotations

from typing import Any

from cambrian_gaze.extras import require


def manifest() -> Any:
    """What lmms-eval finds under its entry point `lmms_eval.models`: the model `cambrian_gaze`."""
    registry = require("lmms_eval.models.registry_v2", extra="lmms")
    return registry.ModelManifest("cambrian_gaze", chat_class_path="cambrian_gaze.evaluation.lmms.model.CambrianGaze")
