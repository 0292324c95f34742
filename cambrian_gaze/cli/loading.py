"""A saved model, ready to generate."""

from __future__ import annotations

import torch

from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.processing import CambrianGazeProcessor


def load(name: str, device: str | None) -> tuple[CambrianGazeForConditionalGeneration, CambrianGazeProcessor]:
    """Model (in eval mode, in the precision it was saved in) and processor from a folder or the Hub.

    Args:
        name: folder of `save_pretrained`, or a Hub name.
        device: where the model goes; None: cuda where there is one.

    Raises: OSError where there is no such model.
    """
    processor = CambrianGazeProcessor.from_pretrained(name)
    model = CambrianGazeForConditionalGeneration.from_pretrained(name, dtype="auto")
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval(), processor
