"""The whole model against the gaze cache: layouts derived call by call, images in later calls."""

import pytest
import torch

from cambrian_gaze.models.cache.cache import GazeCache
from tests._layouts import build, free_cuts, items_between


def tiny_batch(model, rows):
    """Random text, 8×8 images, left padding; the tensors of a processor, and the batch that they were made from."""
    batch = build([[row] for row in rows], model.config.gaze_config, left=True)
    config, generator = model.config, torch.Generator().manual_seed(0)
    ids = torch.tensor([0, config.image_token_id, config.video_token_id, config.context_token_id])
    types = batch.mm_token_type_ids
    words = torch.randint(5, 200, types.shape, generator=generator)
    tensors = {
        "input_ids": torch.where(types > 0, ids[types], words),
        "attention_mask": batch.attention_mask,
        "mm_token_type_ids": types,
        "pixel_values": torch.randn(int(batch.grid_thw[:, 0].sum()), 3, 64, 64, generator=generator),
        "grid_thw": batch.grid_thw,
    }
    return batch, tensors


GRID = (1, 8, 8)
TURNS = [
    [("text", (2,)), ("image", GRID), ("text", (9,))],
    [("image", GRID), ("text", (4,)), ("image", GRID), ("text", (5,))],
    [("text", (3,)), ("video", (2, 8, 8)), ("text", (2,)), ("image", GRID), ("text", (4,))],
]


@pytest.mark.parametrize(
    "gaze",
    [
        {"top_k": 2},
        {"top_k": 1, "head_granularity": "kv_group", "dense_layers": (1,)},
        {"keep_ratio": 0.3, "context_visible": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["all at once", "as fine as can be", "mixture"])
@torch.no_grad()
def test_the_whole_model_in_any_mixture(model, gaze, kind):
    """Layouts derived call by call, images in later calls, rows of unequal length."""
    batch, tensors = tiny_batch(model, TURNS)
    want = model(**tensors, gaze=gaze).logits
    cuts = free_cuts(batch.layout())
    if kind != "as fine as can be":
        cuts = cuts[1::3] if kind == "mixture" else []
    bounds = [0, *cuts, batch.attention_mask.shape[1]]
    frames = torch.arange(len(tensors["pixel_values"])).split(batch.grid_thw[:, 0].tolist())
    cache, pieces = GazeCache(model.config.gaze_config.override(**gaze)), []
    for (start, stop), items in zip(zip(bounds, bounds[1:], strict=False), items_between(batch, bounds), strict=True):
        images = [frames[item] for item in items]
        output = model(
            input_ids=tensors["input_ids"][:, start:stop],
            attention_mask=tensors["attention_mask"][:, :stop],
            mm_token_type_ids=tensors["mm_token_type_ids"][:, start:stop],
            pixel_values=tensors["pixel_values"][torch.cat(images)] if images else None,
            grid_thw=batch.grid_thw[items] if items else None,
            cache=cache,
            use_cache=True,
            gaze=gaze,
        )
        pieces.append(output.logits)
    got = torch.cat(pieces, 1)
    where = batch.attention_mask.bool()
    assert got.isfinite().all()
    assert torch.allclose(got[where], want[where], rtol=1e-3, atol=1e-3 * want[where].abs().max().item())


@torch.no_grad()
def test_a_later_turn_of_unequal_length(model):
    """The second turn is padded on the left inside the rows: the same as each row by itself."""
    turns = [[TURNS[0], [("text", (7,))]], [[("text", (5,))], [("text", (1,)), ("image", GRID), ("text", (2,))]]]
    first, second = (tiny_batch(model, [rows[n] for rows in turns]) for n in (0, 1))
    cache = GazeCache(model.config.gaze_config)
    model(**first[1], cache=cache, use_cache=True)
    mask = torch.cat([first[1]["attention_mask"], second[1]["attention_mask"]], 1)
    together = model(**{**second[1], "attention_mask": mask}, cache=cache, use_cache=True).logits
    assert together.isfinite().all()
    for b, images in enumerate(((1, 0), (0, 1))):
        cache, outputs = GazeCache(model.config.gaze_config), None
        for turn, count in zip((first[1], second[1]), images, strict=True):
            real = turn["attention_mask"][b].bool()
            alone = {
                "input_ids": turn["input_ids"][b : b + 1, real],
                "mm_token_type_ids": turn["mm_token_type_ids"][b : b + 1, real],
                "pixel_values": turn["pixel_values"] if count else None,
                "grid_thw": turn["grid_thw"] if count else None,
            }
            outputs = model(**alone, cache=cache, use_cache=True).logits
        scale = outputs.abs().max().item()
        assert torch.allclose(together[b, real], outputs[0], rtol=1e-3, atol=1e-3 * scale)
