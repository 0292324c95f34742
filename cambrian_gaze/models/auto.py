"""Makes transformers' Auto classes know "cambrian_gaze"."""

from __future__ import annotations


def register() -> None:
    """Register configuration, model and processor. Calling it again does nothing."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForImageTextToText,
        AutoModelForMultimodalLM,
        AutoProcessor,
    )

    from cambrian_gaze.models.backbone import CambrianGazeModel
    from cambrian_gaze.models.configuration import CambrianGazeConfig
    from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
    from cambrian_gaze.models.processing.processor import CambrianGazeProcessor

    AutoConfig.register("cambrian_gaze", CambrianGazeConfig, exist_ok=True)
    AutoModel.register(CambrianGazeConfig, CambrianGazeModel, exist_ok=True)
    AutoModelForImageTextToText.register(CambrianGazeConfig, CambrianGazeForConditionalGeneration, exist_ok=True)
    AutoModelForMultimodalLM.register(CambrianGazeConfig, CambrianGazeForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(CambrianGazeConfig, CambrianGazeProcessor, exist_ok=True)
