"""A group of ranks that compute loss and gradients of one batch, each a slice of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cambrian_gaze import CambrianGazeForConditionalGeneration
from cambrian_gaze.attention.sequence import SequenceGroup
from cambrian_gaze.models.presets import preset

RESULT = "rank{}.pt"
CASES: dict[str, dict[str, Any]] = {
    "dense": {"gaze": {"image": {"region_size": [1, 2, 2], "keep_ratio": 1.0}, "num_context_tokens": 0}},
    "routed": {},
    "kv_group": {"gaze": {"image": {"region_size": [1, 2, 2], "top_k": 2}, "head_granularity": "kv_group"}},
    "pre_rope": {
        "gaze": {
            "image": {"region_size": [1, 2, 2], "top_k": 2},
            "video": {"region_size": [2, 4, 4], "keep_ratio": 0.3},
            "descriptor_keys": "pre_rope",
        }
    },
    "varlen": {"gaze": {"image": {"region_size": [1, 3, 3], "top_k": 2}, "backend": "varlen_reference"}},
    "trained tower": {"frozen": []},
}
"""Name → configuration over the tiny preset; `frozen` names parts that are not trained, by default the tower."""


def make_model(gaze: dict | None = None, frozen: list[str] | None = None) -> CambrianGazeForConditionalGeneration:
    torch.manual_seed(0)
    text = preset("tiny")["text_config"] | {"num_hidden_layers": 2, "num_key_value_heads": 2}
    options = {"text_config": text} | ({} if gaze is None else {"gaze": gaze})
    model = CambrianGazeForConditionalGeneration.from_preset("tiny", **options).double().train()
    for part in ["vision_tower"] if frozen is None else frozen:
        getattr(model.model, part).requires_grad_(False)
    return model


def make_batch(model: CambrianGazeForConditionalGeneration, kind: str) -> dict[str, Any]:
    """Rows of text around pictures, right-padded: `image` two rows with 2 + 1 images, `video` one of 3 frames, `packed`
    two samples in one row, `text` none at all. Lengths are odd, and so are the numbers of units."""
    config = model.config
    h, w = config.grid
    generator = torch.Generator().manual_seed(1)
    ids = {1: config.image_token_id, 2: config.video_token_id, 3: config.context_token_id}

    def unit(token_type: int) -> list[int]:
        return [token_type] * (h * w) + [3] * config.gaze_config.num_context_tokens

    rows = {
        "image": [[0] * 5 + unit(1) + [0] * 7 + unit(1) + [0] * 10, [0] * 3 + unit(1) + [0] * 9],
        "video": [[0] * 4 + unit(2) * 3 + [0] * 12],
        "packed": [[0] * 3 + unit(1) + [0] * 6 + [0] * 2 + unit(1) + [0] * 8],
        "text": [[0] * 13],
    }[kind]
    length = max(map(len, rows)) | 1
    types = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    text = torch.randint(5, 200, types.shape, generator=generator)
    input_ids = torch.where(types == 0, text, torch.tensor([0, *ids.values()])[types])
    labels = input_ids.where((types == 0) & (mask == 1), -100)
    labels[:, :2] = -100
    units = sum(row.count(1) + row.count(2) for row in rows) // (h * w)
    side = config.vision_config.image_size
    batch = {"input_ids": input_ids, "attention_mask": mask, "mm_token_type_ids": types, "labels": labels}
    if units:
        batch["pixel_values"] = torch.randn(units, 3, side, side, generator=generator, dtype=torch.float64)
        batch["grid_thw"] = torch.tensor([[units, h, w]] if kind == "video" else [[1, h, w]] * units)
    if kind == "packed":
        first = 3 + h * w + config.gaze_config.num_context_tokens + 6
        batch["sample_ids"] = (torch.arange(length) >= first).long()[None].where(mask == 1, -1)
    return batch


def step(case: str, kind: str, checkpointing: bool, group: SequenceGroup | None, skip: bool = True) -> dict[str, Any]:
    """Loss, gradients and counted gaze of one batch, and how often regions were ranked."""
    from cambrian_gaze.attention import context

    ranked, real = [], context.choose_from
    context.choose_from = lambda *args: ranked.append(1) or real(*args)
    try:
        model = make_model(**CASES[case])
        if checkpointing:
            model.gradient_checkpointing_enable()
        outputs = model(**make_batch(model, kind), sequence_group=group, skip_logits=skip, return_gaze=True)
        outputs.loss.backward()
    finally:
        context.choose_from = real
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(grad is not None for grad in grads.values()), "a rank without a gradient would stop the others"
    return {"loss": outputs.loss.detach(), "gaze": outputs.gaze, "ranked": len(ranked), "grads": grads}


def rank_main(jobs: list[tuple[str, str, bool, bool]], size: int, folder: str) -> int:
    """One rank of one or more groups: sums over its group, written by the group's first rank."""
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    groups = [dist.new_group(range(first, first + size)) for first in range(0, world, size)]
    group = SequenceGroup(groups[rank // size])
    results = []
    for case, kind, checkpointing, skip in jobs:
        result = step(case, kind, checkpointing, group, skip)
        result["loss"] = group.total(result["loss"])
        result["grads"] = {name: group.total(grad) for name, grad in result["grads"].items()}
        results.append(result)
    torch.save(results, Path(folder) / RESULT.format(rank))
    dist.destroy_process_group()
    return 0


def refuse_main(folder: str) -> int:
    """What a rank says of a group that does not fit the model, and of a cache."""
    dist.init_process_group("gloo")
    group, said = SequenceGroup(dist.group.WORLD), []
    model = make_model()
    batch = make_batch(model, "text")
    for changes in ({"use_cache": True}, {}):
        try:
            model(**batch, sequence_group=group, **changes)
        except ValueError as error:
            said.append(str(error))
        model.config.text_config.num_key_value_heads = 1
    (Path(folder) / f"said{os.environ['RANK']}").write_text("\n".join(said))
    dist.destroy_process_group()
    return 0
