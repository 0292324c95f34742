"""What attention costs on one input, dense beside gaze: counted where it can be counted, timed where it cannot.

As in the paper (section 3.5), the cost is that of text queries over visual and context KV: entries attended, FLOPs of
scores and weighted sums, and the score matrix of a head. Prefill (the prompt's queries that come after the picture) and
decoding (one query per new token) stand apart. The counts come from the attention itself and are held against the cost
model. Visual queries attend to each other as ever and are not part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cambrian_gaze import measure
from cambrian_gaze.evaluation.cost.counts import count_attended, expected_attended
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.cost import attended_visual
from cambrian_gaze.gaze.token_types import IMAGE_TYPE, VIDEO_TYPE

DENSE = {"keep_ratio": 1.0}


@dataclass(frozen=True)
class Cost:
    """One arm in one phase. Per query means: per text query, head and layer."""

    arm: str
    phase: str
    """`prefill` or `decode`."""
    queries: int
    """Text queries after the picture in the prompt; 1 per decoding step."""
    visual: float
    """Visual KV entries attended per query, counted."""
    context: float
    """Context KV entries attended per query, counted."""
    of: int
    """Visual tokens in the cache."""
    model_low: float
    model_high: float
    """Visual entries by the cost model; they differ where regions differ in size."""
    attention_flops: float
    """Of all these queries, heads and layers: 4 · head size per entry."""
    routing_flops: float
    """Scores of the regions' descriptors: 2 · head size per region, routed layer, head and query."""
    score_bytes: float
    """One head's score matrix over visual and context entries, in the precision of the model."""
    kv_held_bytes: int
    """Visual and context keys and values of all layers."""
    kv_read_bytes: float | None
    """Those that a decoding step reads when what several heads of a KV head want is read once."""
    union: float | None
    """Share of the visual tokens that the query heads of a KV head read together."""
    pages: float | None
    """Regions read per KV head and layer, each counted once."""
    seconds: float
    """Of the whole prefill, tower included, or of one decoding step of the whole model: median."""
    peak_bytes: int | None
    """Most memory of tensors during the whole prefill, weights apart."""


def measure_costs(
    model: Any, processor: Any, gaze: Mapping[str, Any], *, frames: int | None, question: str, new_tokens: int
) -> list[Cost]:
    """Prefill and decoding, dense and then with `gaze`, on one random picture.

    Args:
        model: a `CambrianGazeForConditionalGeneration` in eval mode.
        gaze: run-time options; empty: as the checkpoint has it.
        frames: a video of so many frames in place of the picture.
        new_tokens: length of the answer, at least 2.

    Raises: ValueError for a length below 2 or frames below 1; RuntimeError where counts differ from the cost model.
    """
    if new_tokens < 2 or (frames is not None and frames < 1):
        raise ValueError(f"new_tokens={new_tokens} must be at least 2 and frames={frames} at least 1")
    inputs = _inputs(processor, frames, question).to(model.device)
    costs = []
    for name, options in (("dense", DENSE), ("gaze", dict(gaze))):
        costs += _arm(model, inputs, name, options, new_tokens)
    return costs


def _inputs(processor: Any, frames: int | None, question: str) -> Any:
    from PIL import Image

    size = processor.image_processor.size
    generator = torch.Generator().manual_seed(0)
    shape = (frames or 1, size["height"], size["width"], 3)
    pictures = [Image.fromarray(p.numpy()) for p in torch.randint(256, shape, generator=generator, dtype=torch.uint8)]
    seen = {"type": "image", "image": pictures[0]} if frames is None else {"type": "video", "video": pictures}
    content = [seen, {"type": "text", "text": f"\n{question}"}]
    messages = [[{"role": "user", "content": content}]]
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)


@torch.no_grad()
def _arm(model: Any, inputs: Any, name: str, options: dict[str, Any], new_tokens: int) -> list[Cost]:
    config, sizes = model.config.gaze_config.override(**options), _Sizes.of(model)
    grid = tuple(inputs["grid_thw"][0].tolist())
    types = inputs["mm_token_type_ids"][0]
    kind = IMAGE_TYPE if (types == IMAGE_TYPE).any() else VIDEO_TYPE
    cost = attended_visual([grid], config, [kind])
    low, high, context = expected_attended(grid, config, sizes.layers, kind)
    known = {"arm": name, "of": cost.of, "model_low": low, "model_high": high}
    known["kv_held_bytes"] = (cost.of + config.num_context_tokens * grid[0]) * sizes.entry_bytes * sizes.layers
    routed = sum(config.routes(layer) for layer in range(sizes.layers))
    score_flops = 2 * sizes.head * sizes.heads * routed * cost.regions

    def prefill() -> Any:
        return model(**inputs, use_cache=True, logits_to_keep=1, gaze=options)

    stats = model(**inputs, logits_to_keep=1, gaze=options, return_gaze=True).gaze
    _check_prefill(stats, low, high, context, cost.of)
    queries = int((types[int((types == kind).nonzero().max()) :] == 0).sum())
    entries = stats.attended_visual + stats.attended_context
    first = Cost(
        **known,
        phase="prefill",
        queries=queries,
        visual=stats.attended_visual,
        context=stats.attended_context,
        attention_flops=queries * entries * sizes.entry_flops,
        routing_flops=float(queries * score_flops),
        score_bytes=queries * entries * sizes.itemsize,
        kv_read_bytes=None,
        union=None,
        pages=None,
        seconds=measure.median_us(prefill, model.device) / 1e6,
        peak_bytes=measure.peak_bytes(prefill, model.device),
    )

    def answer(length: int, **more: Any) -> Any:
        length_options = {"min_new_tokens": length, "max_new_tokens": length, "do_sample": False}
        return model.generate(**inputs, **length_options, gaze=options, **more)

    trace = answer(new_tokens, return_gaze=True).gaze
    counted = count_attended(trace, 0, new_tokens, [grid], [kind], config)
    union, pages = _union(trace, config, cost.of, sizes)
    entries = counted["visual"] + counted["context"]
    read = (union * cost.of + counted["context"]) * sizes.entry_bytes * sizes.layers
    second = Cost(
        **known,
        phase="decode",
        queries=1,
        visual=counted["visual"],
        context=counted["context"],
        attention_flops=entries * sizes.entry_flops,
        routing_flops=float(score_flops),
        score_bytes=entries * sizes.itemsize,
        kv_read_bytes=read,
        union=union,
        pages=pages,
        seconds=_step_seconds(answer, new_tokens, model.device),
        peak_bytes=None,
    )
    return [first, second]


def _step_seconds(answer: Callable[[int], Any], new_tokens: int, device: torch.device) -> float:
    """Of one decoding step: what an answer of `new_tokens` takes beyond one of a single token."""
    long, short = (measure.median_us(lambda n=n: answer(n), device, warmup=1, repeats=7) for n in (new_tokens, 1))
    return max(long - short, 0.0) / (new_tokens - 1) / 1e6


@dataclass(frozen=True)
class _Sizes:
    layers: int
    heads: int
    groups: int
    head: int
    itemsize: int

    @classmethod
    def of(cls, model: Any) -> _Sizes:
        text = model.config.text_config
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        itemsize = model.dtype.itemsize
        return cls(text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads, head, itemsize)

    @property
    def entry_bytes(self) -> int:
        """Key and value of one token in one layer."""
        return 2 * self.head * self.groups * self.itemsize

    @property
    def entry_flops(self) -> int:
        """Of one query over one entry, all heads and layers: score and weighted sum, two FLOPs per multiply-add."""
        return 4 * self.head * self.heads * self.layers


def _check_prefill(stats: Any, low: float, high: float, context: int, of: int) -> None:
    """Counts of the prompt's queries against the cost model. Raises RuntimeError with both."""
    counted = (stats.attended_visual, stats.attended_context, stats.visible_visual)
    within = low - 1e-6 <= counted[0] <= high + 1e-6
    if not within or abs(counted[1] - context) > 1e-6 or abs(counted[2] - of) > 1e-6:
        raise RuntimeError(
            f"prefill: counted {counted[0]:g}+{counted[1]:g} of {counted[2]:g} KV entries per query, but the cost "
            f"model says {low:g} to {high:g}, +{context} of {of}"
        )


def _union(trace: Any, config: GazeConfig, of: int, sizes: _Sizes) -> tuple[float, float]:
    """Share of the visual tokens, and number of regions, that the heads of a KV head read together in a step: means
    over decoding steps, layers and KV heads. The first step of the trace is the prompt's and does not count."""
    boxes = torch.tensor(trace.region_boxes(0))
    tokens = (boxes[:, 2] - boxes[:, 1]) * (boxes[:, 5] - boxes[:, 3]) * (boxes[:, 6] - boxes[:, 4])
    shares, pages = [], []
    for layer in range(sizes.layers):
        if not config.routes(layer):
            shares.append(1.0)
            pages.append(float(len(boxes)))
            continue
        read = _read(trace.regions[0, 1:, layer], len(boxes), sizes.groups)
        shares.append(float((read * tokens).sum(-1).double().mean()) / of)
        pages.append(float(read.sum(-1).double().mean()))
    return sum(shares) / sizes.layers, sum(pages) / sizes.layers


def _read(regions: Tensor, count: int, groups: int) -> Tensor:
    """Chosen regions [T, H, K], -1 for none → whether any head of a KV head chose each: bool [T, G, R]."""
    steps = regions.shape[0]
    flat = regions.reshape(steps, groups, -1)
    read = torch.zeros(steps, groups, count + 1, dtype=torch.bool)
    return read.scatter_(2, torch.where(flat < 0, count, flat), True)[..., :count]
