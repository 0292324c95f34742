"""The one way to open a model's, processor's, tokenizer's or adapter's folder: the files are looked at first, and
whatever goes wrong while they are read ends as one line that names the folder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from cambrian_gaze.models.conversion.key_report import TensorPart, match, model_shapes
from cambrian_gaze.models.conversion.shards import Shards
from cambrian_gaze.models.conversion.weight_names import saved_names
from cambrian_gaze.models.folders.folder_check import Copied, FolderError, check_files
from cambrian_gaze.models.folders.source import NoSuchFolder, known_source

QUANTISED = ("bitsandbytes", "torchao")
"""Packages that quantise models of this project."""
MOST_PER_BYTE = 8
"""Quantised numbers that a byte may hold."""
SHOWN = 400
"""Characters of somebody else's message that are repeated."""


@contextmanager
def opening(name: Path | str, copied: Copied = "nothing", verb: str = "loaded") -> Iterator[str]:
    """Yields `name` as transformers takes it, checked; errors of the block are told of it in one line.

    Args:
        name: a folder, or an id of the Hub, whose files are checked when they have become a folder.
        copied: see `check_files`.
        verb: what cannot be done where the block fails.

    Raises: NoSuchFolder; FolderError, a ValueError and an OSError, for a faulty file and for any error of the block but
        a missing package and no memory left, and but OSError where the Hub is asked.
    """
    source = known_source(name)
    here = Path(source).is_dir()
    if here:
        check_files(source, copied)
    with said_of(f"{source} cannot be {verb}", *(() if here else (OSError,))):
        yield source


@contextmanager
def said_of(what: str, *passed: type[Exception]) -> Iterator[None]:
    """Errors of the block as a FolderError "`what`: …" of one line, but for those of one already, missing packages, no
    memory left (the machine's, no fault of the folder) and the kinds in `passed`."""
    try:
        yield
    except (FolderError, NoSuchFolder, ImportError, MemoryError, torch.OutOfMemoryError, *passed):
        raise
    except Exception as error:
        kind = "" if isinstance(error, (ValueError, OSError)) and str(error) else f"{type(error).__name__} "
        text = " ".join(str(error).split())
        raise FolderError(f"{what}: {kind}{text[:SHOWN]}{'…' if len(text) > SHOWN else ''}".rstrip()) from error


def open_config(name: Path | str, copied: Copied = "nothing") -> PreTrainedConfig:
    """The configuration of a folder or Hub id, of any architecture of transformers or this project; code that it names
    is not run.

    Raises: as `opening`.
    """
    with opening(name, copied) as source:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)


def open_tokenizer(name: Path | str, copied: Copied = "nothing", **options: Any) -> Any:
    """The tokenizer of a folder or Hub id. Raises: as `opening`."""
    with opening(name, copied) as source:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)


def open_processor(name: Path | str) -> Any:
    """The processor of a folder or Hub id, of whatever class it was saved as. Raises: as `opening`."""
    with opening(name) as source:
        return AutoProcessor.from_pretrained(source, trust_remote_code=False)


def check_fit(kind: type[PreTrainedModel], config: PreTrainedConfig, folder: str) -> None:
    """Compare the names and shapes in the folder's weights with the model, before memory is taken for either.

    Raises: FolderError naming tensors that are missing or of another shape: transformers would draw them anew. Of
        quantised weights, whose names and shapes are the quantiser's, that they are.
    """
    if not Path(folder).is_dir():
        return
    with said_of(f"{folder} cannot be loaded"):
        shards = Shards(folder, only_listed=True)
        with torch.device("meta"):
            shapes = model_shapes(kind(config))
        if (quantised := getattr(config, "quantization_config", None)) is not None:
            _check_quantised(quantised, shards, shapes)
            return
        names = saved_names(shards, config.vision_config, shapes)
        report = match(shapes, [TensorPart("model", shards, names, ("",))], {})
        report.unexpected.clear()  # transformers says which are left
        report.check()


def _check_quantised(quantised: Any, shards: Shards, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises: ValueError where weights are quantised by another package than ours are, not at all, or too few."""
    stated = quantised if isinstance(quantised, dict) else quantised.to_dict()
    method = str(getattr(stated.get("quant_method"), "value", stated.get("quant_method")))
    if method not in QUANTISED:
        raise ValueError(f"its weights are quantised by {method[:40]!r}; known: {', '.join(QUANTISED)}")
    if not set(shards) - set(shapes):  # there would be scales
        raise ValueError(f"config.json says that its weights are quantised by {method}, and they are not")
    stored, needed = sum(file.stat().st_size for file in shards.files), sum(map(math.prod, shapes.values()))
    if needed > MOST_PER_BYTE * stored:
        raise ValueError(f"its {stored} bytes of weights cannot hold the {needed} numbers of the model")
