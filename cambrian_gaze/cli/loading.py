"""A saved model, ready to generate."""

from __future__ import annotations

from pathlib import Path

import torch

from cambrian_gaze.models.adapters import load_adapted
from cambrian_gaze.models.folders.adapter_check import refuse_adapter
from cambrian_gaze.models.folders.source import known_source
from cambrian_gaze.models.loading import load_to_answer, make_ready
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.processing.processor import CambrianGazeProcessor


def load(
    name: str, device: str | None, adapter: str | None = None, system: str | None = None
) -> tuple[CambrianGazeForConditionalGeneration, CambrianGazeProcessor]:
    """Model (in eval mode, in the precision it was saved in) and processor from a folder or the Hub.

    Args:
        name: folder of `save_pretrained`, or a Hub name.
        device: where the model goes; None: cuda where there is one.
        adapter: folder of a run with `lora_enable`, loaded over the model.
        system: what the system turn says; None: as the checkpoint has it.

    Raises: OSError or ValueError where there is no such model; ValueError where the device is none of this machine, or
    the adapter is none, or another model's.
    """
    place = find_device(device)
    for folder in (name, *([] if adapter is None else [adapter])):
        check_folder(folder)
    refuse_adapter(name)
    if adapter is None:
        model, processor = load_to_answer(name, system)
    else:
        processor = CambrianGazeProcessor.from_pretrained(adapter)
        model, processor = make_ready(load_adapted(name, adapter), processor, system)
    return model.to(place), processor


def find_device(name: str | None) -> torch.device:
    """The device of that name; None: cuda where there is one. Raises ValueError where this machine has none such."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        device = torch.device(name or ("cuda" if gpus else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"--device {name}: no device has this name; use cpu, cuda, cuda:1, …") from error
    if device.type == "cuda" and (device.index or 0) >= gpus:
        build = "" if torch.version.cuda else f" (torch {torch.__version__} is built without CUDA)"
        raise ValueError(
            f"--device {name}: this machine has {gpus or 'no'} CUDA devices{build}; leave it out, or say cpu"
        )
    return device


def check_folder(name: str) -> None:
    """Raises ValueError where `name` is a path and no folder with a model's or adapter's configuration."""
    folder = Path(known_source(name))
    if folder.is_dir() and not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
        raise ValueError(f"{name} holds no config.json; name the folder that save_pretrained wrote")
