"""A model folder written from the tensors that a `KeyReport` found, without the model ever being in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig

from cambrian_gaze.files import new_folder
from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.models.conversion.key_report import KeyReport, model_shapes
from cambrian_gaze.models.conversion.shard_writer import Planned, write_shards
from cambrian_gaze.models.conversion.weight_names import DECODER, HEAD
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.processing.processor import CambrianGazeProcessor

EMBEDDINGS = DECODER + "embed_tokens.weight"

NEW = {
    "model.mm_projector.conv.": "the mean of each 2×2 block",
    "model.mm_projector.": "normal with the decoder's initializer_range, biases zero",
    "model.gaze.": "normal with context_tokens_std, or the decoder's initializer_range",
}
"""Tensors that no backbone has, and how they are initialised."""


@dataclass(frozen=True)
class WriteOptions:
    """How a model folder is written."""

    dtype: torch.dtype | None = None
    """Of all weights; None: each as it is stored, and new ones as the decoder's configuration says."""
    seed: int = 0
    """Of the new parameters."""
    max_shard_size: int = 4_000_000_000
    """Bytes."""
    dry_run: bool = False
    """Compare every name and shape with the model, and write nothing."""
    progress: bool = True


def write_model(
    out: Path | str,
    model: CambrianGazeForConditionalGeneration,
    report: KeyReport,
    processor: CambrianGazeProcessor,
    settings: GenerationConfig,
    how: WriteOptions,
    extra: Callable[[Path], object] = lambda folder: None,
) -> None:
    """Write weights, configurations and processor of a model.

    Args:
        out: the folder; it must not exist, or be empty.
        model: on the meta device; gives names, shapes and the initialisation of what is new.
        report: where each tensor comes from.
        processor: the model's, see `CambrianGazeProcessor.from_config`.
        settings: for `generate`, see `generation_settings`.
        extra: called with the folder before it gets its name; adds files.

    Raises: ValueError where a hash or the space on the disk does not suffice; nothing is written then.
    """
    for shards in {id(source.part.shards): source.part.shards for source in report.loaded.values()}.values():
        shards.check_hashes(how.progress)
    check_tied(report)
    config = model.config
    stored = {name: source.part.shards.entries[source.name].dtype for name, source in report.loaded.items()}
    new_dtype = how.dtype or config.text_config.dtype or stored[EMBEDDINGS]
    fresh = fresh_parameters(model, list(report.new), how.seed)
    planned = [
        Planned(
            name,
            shape,
            how.dtype or stored.get(name, new_dtype),
            fresh[name].clone if name in fresh else _loader(report, name, shape, config, how.seed),
        )
        for name, shape in model_shapes(model).items()
    ]
    if how.dtype is not None and (casts := set(stored.values()) - {how.dtype}):
        report.notes.append(f"weights of {', '.join(sorted(map(str, casts)))} are written as {how.dtype}")
    check_space(out, sum(tensor.size for tensor in planned))
    config.architectures = [type(model).__name__]
    config.dtype = new_dtype
    with new_folder(out) as folder:
        write_shards(folder, planned, how.max_shard_size, how.progress)
        config.save_pretrained(folder)
        settings.save_pretrained(folder)
        processor.save_pretrained(folder)
        extra(folder)


def check_tied(report: KeyReport) -> None:
    """A head that the configuration says is tied must be the token embeddings.

    Raises: ValueError where it is not: leaving it out would change the model.
    """
    source = report.loaded[EMBEDDINGS]
    part = source.part
    if HEAD not in part.names or part.names[HEAD].target is not None:
        return
    if not torch.equal(part.shards.tensor(HEAD), part.shards.tensor(source.name)):
        raise ValueError(
            f"{part.shards.path} says tie_word_embeddings, but its {HEAD} is not its token embeddings; set "
            "tie_word_embeddings to false in its config.json"
        )


def check_space(out: Path | str, needed: int) -> None:
    """Raises: ValueError where the disk has fewer than `needed` bytes free."""
    place = Path(out).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ValueError(f"{out} needs {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free")


@torch.no_grad()
def fresh_parameters(model: CambrianGazeForConditionalGeneration, names: Sequence[str], seed: int) -> dict[str, Tensor]:
    """The new parameters `names` of a model on the meta device, initialised as the model initialises them."""
    fresh: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for owner in ("model.mm_projector", "model.gaze"):
            if any(name.startswith(f"{owner}.") for name in names):
                module = model.get_submodule(owner).to_empty(device="cpu")
                module.apply(model._init_weights)
                fresh |= {f"{owner}.{name}": tensor for name, tensor in module.state_dict().items()}
    return {name: fresh[name] for name in names}


def _loader(
    report: KeyReport, name: str, shape: tuple[int, ...], config: CambrianGazeConfig, seed: int
) -> Callable[[], Tensor]:
    source = report.loaded[name]
    shards = source.part.shards
    missing_rows = shape[0] - shards.entries[source.name].shape[0] if shape else 0

    def load() -> Tensor:
        tensor = shards.tensor(source.name)
        if not missing_rows:
            return tensor
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(missing_rows, *shape[1:], generator=generator) * config.text_config.initializer_range
        return torch.cat([tensor, rows.to(tensor.dtype)])

    return load
