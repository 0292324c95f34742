"""From what `generate` returned to a `Trace`: texts, probabilities and pictures beside the gaze."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import cambrian_gaze
from cambrian_gaze.viz.regions import RegionBox, grid_extent
from cambrian_gaze.viz.trace import Trace
from cambrian_gaze.viz.trace_data import ALL, NONE, TraceItem, encode_picture

if TYPE_CHECKING:
    import torch

    from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
    from cambrian_gaze.models.processing.processor import CambrianGazeProcessor

Picture = Image.Image | Sequence[Image.Image] | TraceItem
"""An image, the frames of a video, or either as a trace keeps it."""
ALTERNATIVES = 5
"""Likeliest tokens kept per step."""
MISSING = {
    "scores": "the routing scores of the regions are not kept by the attention backends",
    "attention": 'generate was not asked for attention weights: return_gaze="weights"',
}
MAX_BY_LAYER = 16 << 20
"""Bytes of the attention weights of all layers; where they would take more, their mean over layers is kept."""


@dataclass(frozen=True)
class Asked:
    """What `generate` was asked, as a trace tells it."""

    prompt: str
    """The question as it was asked."""
    prompt_tokens: int
    """Length of `input_ids`; what follows is the answer."""
    pictures: Sequence[Picture]
    """The row's images, and videos as sequences of frames, in order, as the processor got them. A `TraceItem` stands
    for itself: who makes many traces of the same pictures encodes them once."""
    sources: Sequence[str | None] | None = None
    """Where each came from, for the reader."""
    gaze: Any = None
    """The options that `generate` had under this name."""


def trace_of(
    output: Any,
    model: CambrianGazeForConditionalGeneration,
    processor: CambrianGazeProcessor,
    asked: Asked,
    *,
    facts: dict[str, Any] | None = None,
    row: int = 0,
) -> Trace:
    """One row of what `model.generate(…, return_gaze="weights")` returned, as a trace.

    Args:
        output: with `output_logits=True` the trace has log-probabilities and alternatives, and with
            `return_gaze="weights"` attention weights; else it says why not.
        facts: what tells the model, as `model_facts` does; default: of what it was loaded from.

    Raises: ValueError where `output` has no gaze, or the pictures are not those of its grids.
    """
    if getattr(output, "gaze", None) is None:
        raise ValueError('this output has no gaze; call generate(…, return_gaze="weights")')
    prompt_tokens, pictures = asked.prompt_tokens, asked.pictures
    ids = output.sequences[row, prompt_tokens:].tolist()[: output.gaze.regions.shape[1]]
    ids = ids[: _length(ids, model.generation_config.eos_token_id)]
    tokenizer = processor.tokenizer
    boxes = output.gaze.region_boxes(row)
    weights = getattr(output.gaze, "weights", None)
    inside = None if weights is None else weights.inside[row, : len(ids)].float().cpu().numpy()
    regions, inside = _chosen(output.gaze.regions[row, : len(ids)].cpu().numpy(), inside, len(boxes))
    dense = "every layer attends to every region, so that nothing was chosen (regions are ALL)"
    trace = Trace(
        prompt=asked.prompt,
        tokens=token_texts(lambda part: processor.decode(part, skip_special_tokens=False), ids),
        token_ids=np.array(ids, dtype=np.int64),
        special=np.isin(ids, tokenizer.all_special_ids),
        regions=regions,
        attended=np.stack(
            [
                getattr(output.gaze, f"attended_{role}")[row, : len(ids)].cpu().numpy().astype(np.int32)
                for role in ("visual", "context", "text")
            ],
            axis=-1,
        ),
        boxes=np.array(boxes, dtype=np.int32).reshape(-1, 7),
        items=trace_items(boxes, pictures, asked.sources or [None] * len(pictures)),
        image_aspect_ratio=processor.image_aspect_ratio,
        gaze=asdict(model.model.resolve_gaze(asked.gaze)),
        model=model_facts(model.name_or_path) if facts is None else dict(facts),
        made_by=f"cambrian-gaze {cambrian_gaze.__version__}",
        missing=dict(MISSING),
    )
    if len(boxes) and not trace.chose.any():
        trace.missing["regions"] = dense
    if weights is not None:
        _add_weights(trace, inside, *(x[row, : len(ids)].float().cpu() for x in (weights.visual, weights.by_role)))
    if held := getattr(output, "held", None):
        trace.kept = _kept(trace, held, row, output.sequences[row, :prompt_tokens], tokenizer)
    if getattr(output, "logits", None):
        _add_probabilities(trace, output, row, lambda token: processor.decode([token], skip_special_tokens=False))
    else:
        trace.missing["logprobs"] = "generate was not asked for them: output_logits=True"
    return trace


def _kept(trace: Trace, held: dict[int, torch.Tensor], row: int, prompt: torch.Tensor, tokenizer: Any) -> Any:
    """float32 [L, N]: see `TraceData.kept`. None where the prompt's visual tokens are not those of the pictures."""
    import torch

    from cambrian_gaze.data.expand import PlaceholderIds

    ids = PlaceholderIds.from_tokenizer(tokenizer)
    places = torch.isin(prompt.cpu(), torch.tensor([ids.image, ids.video])).nonzero()[:, 0]
    if len(places) != trace.num_visual or len(held) != trace.regions.shape[1]:
        trace.missing["kept"] = "placeholders in the text hide which tokens are visual"
        return None
    return torch.stack([held[layer][row].cpu()[:, places].float().mean(0) for layer in sorted(held)]).numpy()


def token_texts(decode: Callable[[list[int]], str], ids: Sequence[int]) -> list[str]:
    """What each token adds to the text. A token that ends within a character adds nothing; the character's last token
    adds it whole. Each is decoded with its neighbours before it, as spaces depend on them."""
    texts, start, done = [], 0, 0
    for end in range(1, len(ids) + 1):
        known, text = decode(list(ids[start:done])), decode(list(ids[start:end]))
        if text.endswith("\ufffd") and end < len(ids) and end - done < 8:
            texts.append("")
            continue
        texts.append(text[len(known) :])
        start, done = done, end
    return texts


def model_facts(name: str) -> dict[str, Any]:
    """Name and digest of the weights, of the lineage where the folder has one, else read, once while the files stay as
    they are. None for a model without a name, and for the digest where there is no folder of safetensors (a name of the
    Hub)."""
    from cambrian_gaze.models.folders.lineage import LINEAGE, read_lineage

    folder, weights = Path(name), None
    if name and (folder / "config.json").is_file():
        try:
            own = (folder / LINEAGE).is_file()
            weights = read_lineage(folder)["weights"] if own else _digest(folder.resolve(), _state_of_weights(folder))
        except (ValueError, OSError):
            pass  # An answer is not lost because its model cannot be named.
    return {"name": name or None, "weights": weights}


def _state_of_weights(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, bytes and time of change of the files that the digest is about."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")])
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


@functools.lru_cache(maxsize=16)
def _digest(folder: Path, state: tuple[tuple[str, int, int], ...]) -> str:
    """Of the weights in a folder, whose files are in this state."""
    from cambrian_gaze.models.folders.lineage import weights_digest

    return weights_digest(folder)


def _length(ids: Sequence[int], ends: int | Sequence[int] | None) -> int:
    """Tokens up to the first that ends the answer, which counts; what follows is padding."""
    known = set() if ends is None else {ends} if isinstance(ends, int) else set(ends)
    return next((place for place, token in enumerate(ids, start=1) if token in known), len(ids))


def _chosen(regions: np.ndarray, inside: np.ndarray | None, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """int32 [T, L, H, K]: heads with every region marked `ALL`, and K the widest choice that is left; and the attention
    weight `inside`, [T, L, H, regions], of what stands at each of these places."""
    if not regions.shape[-1]:
        regions = np.full((*regions.shape[:-1], 1), NONE)
        inside = None if inside is None else np.zeros(regions.shape, dtype=np.float32)
    every = ((regions >= 0).sum(-1) == count) & (count > 0)
    regions = np.where(every[..., None], NONE, regions)
    width = max(1, int((regions >= 0).sum(-1).max(initial=0)))
    order = np.argsort(-regions, axis=-1, kind="stable")[..., :width]
    cut = regions.shape[-1] > width
    kept = (np.take_along_axis(regions, order, axis=-1) if cut else regions).astype(np.int32)
    if inside is not None:
        total, inside = inside.sum(-1), np.take_along_axis(inside, order, axis=-1) if cut else inside
        inside = np.where(kept >= 0, inside, 0)
        inside[..., 0] = np.where(every, total, inside[..., 0])
    kept[..., 0] = np.where(every, ALL, kept[..., 0])
    return kept, inside


def _add_weights(trace: Trace, inside: np.ndarray, visual: torch.Tensor, by_role: torch.Tensor) -> None:
    """Fills the attention weights. inside: as of `_chosen`; visual: [T, L, N], of more places where another row has
    more visual tokens; by_role: [T, L, H, 3]."""
    visual = visual[:, :, : trace.num_visual]
    del trace.missing["attention"]
    if (size := 2 * visual.numel()) > MAX_BY_LAYER:
        trace.missing["attention"] = (
            f"of single layers attention is not kept, which would take {size >> 20} MiB: it is the mean over layers"
        )
        visual = visual.mean(1, keepdim=True)
    trace.attention = visual.numpy().astype(np.float16)
    trace.region_mass, trace.role_mass = inside.astype(np.float16), by_role.mean(2).numpy().astype(np.float16)


def check_pictures(pictures: Sequence[Any]) -> None:
    """Raises ValueError for videos that a trace cannot keep, so that it can be said before the model answers: an item
    of a trace has one size."""
    for video in pictures:
        if not isinstance(video, Image.Image | TraceItem) and len(sizes := {frame.size for frame in video}) > 1:
            told = ", ".join(f"{width}x{height}" for width, height in sorted(sizes)[:4])
            raise ValueError(f"a video has frames of {len(sizes)} sizes ({told}); a trace needs frames of one size")


def trace_items(
    boxes: Sequence[Sequence[int]], pictures: Sequence[Picture], sources: Sequence[str | None]
) -> list[TraceItem]:
    """The pictures of a row as a trace keeps them. Raises ValueError where they are not those of the regions."""
    check_pictures(pictures)
    places = [RegionBox(*box) for box in boxes]
    if (known := len({box.item for box in places})) != len(pictures):
        raise ValueError(f"the gaze is about {known} images or videos, but {len(pictures)} were given")
    items = []
    for number, (given, source) in enumerate(zip(pictures, sources, strict=True)):
        grid = grid_extent(box for box in places if box.item == number)
        if isinstance(given, TraceItem):
            if tuple(given.grid) != tuple(grid):
                raise ValueError(f"item {number} has the grid {tuple(grid)} in the gaze, but {given.grid} was given")
            items.append(given)
            continue
        video = not isinstance(given, Image.Image)
        frames = [frame.convert("RGB") for frame in (given if video else [given])]
        if len(frames) != grid[0]:
            raise ValueError(f"item {number} has {grid[0]} frames in the gaze, but {len(frames)} were given")
        digest = hashlib.sha256()
        for frame in frames:
            digest.update(frame.tobytes())
        encoded = [encode_picture(frame) for frame in frames]
        lossless = all(exact for _, exact in encoded)
        data = [picture for picture, _ in encoded]
        kind = "video" if video else "image"
        items.append(TraceItem(kind, grid, frames[0].size, data, source, digest.hexdigest(), lossless))
    return items


def _add_probabilities(trace: Trace, output: Any, row: int, text: Callable[[int], str]) -> None:
    """Fills `logprobs` and the alternatives from `output.logits`, T tensors [rows of the running batch, vocabulary]."""
    import torch

    beams = output.get("beam_indices")
    own: list[float] = []
    top: list[tuple[torch.Tensor, torch.Tensor]] = []
    for step, token in enumerate(trace.token_ids.tolist()):
        place = row if beams is None else int(beams[row, step])
        logprobs = torch.log_softmax(output.logits[step][place].float(), dim=-1)
        own.append(float(logprobs[token]))
        top.append(logprobs.topk(min(ALTERNATIVES, len(logprobs))))
    if not top:
        return
    trace.logprobs = np.array(own, dtype=np.float32)
    trace.top_logprobs = torch.stack([values for values, _ in top]).cpu().numpy().astype(np.float32)
    trace.top_ids = torch.stack([ids for _, ids in top]).cpu().numpy()
    trace.top_tokens = [[text(token) for token in row] for row in trace.top_ids.tolist()]
