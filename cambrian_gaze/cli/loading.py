"""A saved model, ready to generate."""

from __future__ import annotations

import torch

from cambrian_gaze.models.adapters import load_adapted, refuse_adapter
from cambrian_gaze.models.loading import load_to_answer, make_ready
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.processing import CambrianGazeProcessor


def load(
    name: str, device: str | None, adapter: str | None = None, system: str | None = None
) -> tuple[CambrianGazeForConditionalGeneration, CambrianGazeProcessor]:
    """Model (in eval mode, in the precision it was saved in) and processor from a folder or the Hub.

    Args:
        name: folder of `save_pretrained`, or a Hub name.
        device: where the model goes; None: cuda where there is one.
        adapter: folder of a run with `lora_enable`, loaded over the model.
        system: what the system turn says; None: as the checkpoint has it.

    Raises: OSError where there is no such model; ValueError where the adapter is none, or another model's.
    """
    refuse_adapter(name)
    if adapter is None:
        model, processor = load_to_answer(name, system)
    else:
        processor = CambrianGazeProcessor.from_pretrained(adapter)
        model, processor = make_ready(load_adapted(name, adapter), processor, system)
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), processor
