"""LoRA adapters of a saved model: loaded over it, or merged into it.

An adapter's folder is one of peft's: `adapter_model.safetensors` holds the low-rank matrices of the decoder's layers,
and the projector and context tokens that trained beside them as a whole. Beside it lie the configuration that it was
trained under (`config.json`, with the budget), the processor, and the lineage, whose parent is the base.
"""

from __future__ import annotations

from pathlib import Path

import torch

from cambrian_gaze.extras import require
from cambrian_gaze.files import new_folder
from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.models.conversion.backbones import other_sizes
from cambrian_gaze.models.folders.adapter_check import (
    ADAPTER_CONFIG,
    check_adapter,
    check_patterns,
    is_adapter,
    refuse_adapter,
)
from cambrian_gaze.models.folders.folder_check import Copied
from cambrian_gaze.models.folders.lineage import LINEAGE, parent, read_lineage, weights_digest, write_lineage
from cambrian_gaze.models.folders.opening import opening
from cambrian_gaze.models.generation_settings import settle
from cambrian_gaze.models.loading import load_model
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.processing.processor import CambrianGazeProcessor


def load_adapted(base: Path | str, adapter: Path | str) -> CambrianGazeForConditionalGeneration:
    """The model `base` with the adapter over it, under the adapter's configuration, in the base's precision.

    Raises: ImportError without peft; ValueError where `adapter` holds no adapter, or one of another model.
    """
    return _over_base(base, adapter).get_base_model()


def merge_adapter(base: Path | str, adapter: Path | str, out: Path | str) -> Path:
    """Write the model `base` with the adapter added into its weights: a model folder like the base's, with processor
    and lineage. The sum is rounded to the base's precision.

    Raises: as `load_adapted`; ValueError where `out` is there already, or the sum is not finite.
    """
    with new_folder(out) as folder:
        model = _over_base(base, adapter, copied="rewritten").merge_and_unload(progressbar=True, safe_merge=True)
        processor = CambrianGazeProcessor.from_pretrained(adapter)
        settle(model, processor.tokenizer)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_lineage(folder, "merge of an adapter", [parent("model", base), parent("adapter", adapter)])
    return Path(out)


def _over_base(base: Path | str, adapter: Path | str, copied: Copied = "nothing") -> torch.nn.Module:
    """A `PeftModel` of the adapter over the base, in evaluation mode."""
    peft = require("peft", "peft")
    if not is_adapter(adapter):
        raise ValueError(f"{adapter} holds no {ADAPTER_CONFIG}; name the folder that a run with lora_enable wrote")
    with opening(base, copied) as source:
        refuse_adapter(source)
    with opening(adapter, copied):
        check_adapter(adapter)
        _check_base(base, adapter)
    config, stored = CambrianGazeConfig.from_pretrained(adapter), CambrianGazeConfig.from_pretrained(base)
    if differences := other_sizes(config, stored):
        raise ValueError(f"{adapter} was trained on another model than {base}: {'; '.join(differences)}")
    config.dtype = stored.dtype
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # of the training; here the base is as it was saved
    model = load_model(str(base), config, stored.dtype or torch.float32)
    with opening(adapter) as source:
        check_patterns(adapter, [name for name, _ in model.named_modules()])
        return peft.PeftModel.from_pretrained(model, source).eval()


def _check_base(base: Path | str, adapter: Path | str) -> None:
    """Raises: ValueError where the adapter's lineage tells other weights of its base than those here."""
    base, adapter = Path(base), Path(adapter)
    if not (adapter / LINEAGE).is_file() or not base.is_dir():
        return
    trained_on = next((one for one in read_lineage(adapter)["parents"] if one["role"] == "model"), {})
    expected = trained_on.get("lineage", trained_on).get("weights")
    if expected is None:
        return
    found = read_lineage(base)["weights"] if (base / LINEAGE).is_file() else weights_digest(base)
    if found != expected:
        raise ValueError(
            f"{adapter} was trained on {trained_on['name']} with the weights {expected}, and {base} has {found}; "
            "give the model that it was trained on"
        )
