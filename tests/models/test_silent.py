"""What used to give a result of another meaning without a word: each is right now, or an error."""

import dataclasses

import pytest
import torch

from cambrian_gaze import CambrianGazeConfig
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.models.attach import attach_gaze
from cambrian_gaze.models.cache.cache import GazeCache
from tests.models.attach._families import onevision
from tests.models.conftest import ask, make_model, noise

ANSWER = {"route_prompt": False, "top_k": 1}


def without(batch, *names, **changes):
    return {name: tensor for name, tensor in batch.items() if name not in names} | changes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: without(b, "pixel_values"), "3 image or video grids came without pixel_values"),
        (lambda b: without(b, "grid_thw", "pixel_values"), "placeholders, but the 0 grids"),
        (lambda b: without(b, "grid_thw", pixel_values=b["pixel_values"][:2]), "placeholders, but the 2 grids"),
        (
            lambda b: without(
                b, "grid_thw", mm_token_type_ids=b["mm_token_type_ids"].where(b["mm_token_type_ids"] != 1, 2)
            ),
            "placeholders, but the 0 grids",
        ),
        (lambda b: without(b, grid_thw=torch.tensor([[1, 4, 16]] * 3)), "8×8 visual tokens each.*4×16"),
        (lambda b: without(b, grid_thw=torch.tensor([[1, 16, 4]] * 3)), "8×8 visual tokens each.*16×4"),
        (lambda b: without(b, mm_token_type_ids=b["mm_token_type_ids"] * 4), "must be 0 text, 1 image"),
        (lambda b: without(b, mm_token_type_ids=b["mm_token_type_ids"][:, 1:]), "mm_token_type_ids must be"),
        (lambda b: without(b, mm_token_type_ids=torch.zeros_like(b["input_ids"])), "0 visual and 0 context"),
        (lambda b: without(b, sample_ids=torch.zeros(2, 3, dtype=torch.int64)), "sample_ids must be"),
        (lambda b: without(b, labels=b["input_ids"][:, 1:]), "labels must be"),
        (lambda b: without(b, gaze="top_k=2"), "gaze must be options"),
        (lambda b: without(b, gaze={"dense_layers": [99]}), "dense_layers names 99, but the decoder has 3 layers"),
        (lambda b: without(b, gaze={"dense_layers": 1.5}), "dense_layers must be a list"),
        (lambda b: without(b, gaze={"route_prompt": "no"}), "route_prompt must be true or false"),
        (lambda b: without(b, gaze={"keep_ratio": "half"}), "keep_ratio must be in"),
        (lambda b: without(b, gaze={"schedule": {"dense_fraction": 0.5}}), "schedule belongs to training"),
        (lambda b: without(b, gaze={"top_k": 2, "image": {"top_k": 3}}), "exactly one budget"),
        (lambda b: without(b, gaze={"image": 3}), "image must hold a region_size"),
        (lambda b: without(b, gaze=GazeConfig(num_context_tokens=2)), "this model has 4 context tokens"),
        (lambda b: without(b, gaze=GazeConfig(dense_layers=(3,))), "dense_layers names 3"),
    ],
)
def test_it_is_an_error(model, batch, change, message):
    with pytest.raises(ValueError, match=message):
        model(**change(dict(batch)))


def test_pictures_alone_need_no_grids(model, batch):
    """Each is of the model's grid; TRL's trainers of groups hand on pixels and token types alone."""
    bare = without(batch, "grid_thw")
    with torch.no_grad():
        assert torch.equal(model(**bare).logits, model(**batch).logits)
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": 2}
    assert torch.equal(model.generate(**bare, **options), model.generate(**batch, **options))


def test_features_that_the_caller_placed_need_no_pixels(model, batch):
    with torch.no_grad():
        want = model(**batch).logits
        features = model.model.get_image_features(batch["pixel_values"]).flatten(0, 1)
        embeds = model.get_input_embeddings()(batch["input_ids"])
        types = batch["mm_token_type_ids"][..., None]
        embeds = embeds.masked_scatter(types == 1, features)
        embeds = embeds.masked_scatter(types == 3, model.model.gaze.context_tokens.repeat(3, 1))
        got = model(**without(batch, "input_ids", "pixel_values", inputs_embeds=embeds)).logits
    assert torch.allclose(want, got, atol=1e-5)


def test_a_layer_that_is_not_there_is_refused_everywhere():
    gaze = {"image": {"region_size": [1, 2, 2], "top_k": 2}, "dense_layers": [0, 99]}
    with pytest.raises(ValueError, match="names 99, but the decoder has 3 layers"):
        CambrianGazeConfig.from_preset("tiny", gaze=gaze)
    config = CambrianGazeConfig.from_preset("tiny")
    config.gaze["dense_layers"] = [3]
    with pytest.raises(ValueError, match="numbered 0 to 2"):
        _ = config.gaze_config
    with pytest.raises(ValueError, match="dense_layers names 99"):
        attach_gaze(onevision().model, gaze)


def test_part_of_a_budget_leaves_the_regions_as_they_are():
    config = GazeConfig(image=RegionBudget((1, 2, 2), top_k=2), video=RegionBudget((2, 3, 3), keep_ratio=0.5))
    assert config.override(image={"top_k": 4}).image == RegionBudget((1, 2, 2), top_k=4)
    assert config.override(video={"kv_budget": 36}).video == RegionBudget((2, 3, 3), kv_budget=36)
    assert config.override(image={"region_size": [1, 4, 4]}).image == RegionBudget((1, 4, 4), top_k=2)
    alone = dataclasses.replace(config, video=None)
    assert alone.override(video={"top_k": 1}).video == RegionBudget((1, 2, 2), top_k=1)


def test_a_cache_of_other_regions_is_refused(model, batch):
    with torch.no_grad():
        cache = model(**batch, use_cache=True).past_key_values
        with pytest.raises(ValueError, match="region_size of images"):
            model(
                input_ids=batch["input_ids"][:, :1],
                past_key_values=cache,
                gaze={"image": {"region_size": [1, 4, 4]}, "video": None},
            )


def test_route_prompt_at_run_time_is_that_of_the_loss(batch):
    """As an option of the call and as a field of the checkpoint: the same loss, and not that of a routed prompt."""
    labels = torch.where(batch["attention_mask"].bool() & (batch["mm_token_type_ids"] == 0), batch["input_ids"], -100)
    labels[:, :-6] = -100
    inputs = dict(batch) | {"labels": labels}
    as_shipped = make_model()
    fixed = make_model(gaze=as_shipped.config.gaze | {"route_prompt": False})
    with torch.no_grad():
        said, kept, both = (
            as_shipped(**inputs, gaze=ANSWER).loss,
            fixed(**inputs, gaze={"top_k": 1}).loss,
            fixed(**inputs, gaze={"top_k": 1, "route_prompt": True}).loss,
        )
        routes = as_shipped(**inputs, gaze={"top_k": 1}).loss
    assert torch.equal(said, kept) and torch.equal(both, routes)
    assert (said - routes).abs() > 1e-4, "the option makes a difference here"


@torch.no_grad()
def test_a_dense_prompt_in_chunks_is_said_or_refused(model, processor):
    """Invariant 3 with route_prompt=False: chunks that say what routes equal the whole; others are errors."""
    batch = processor.apply_chat_template(ask(noise(0), text="where is it?"), tokenize=True, add_generation_prompt=True)
    ids, types, mask = batch["input_ids"], batch["mm_token_type_ids"], batch["attention_mask"]
    length, cut = ids.shape[1], int((types[0] > 0).nonzero().max()) + 3
    want = model(**batch, gaze=ANSWER).logits[:, cut:]
    routed = torch.zeros_like(ids, dtype=torch.bool)
    routed[:, -1] = True
    dense = model(**batch, gaze=ANSWER, routed=torch.zeros_like(routed)).logits[:, -1]
    assert (want[:, -1] - dense).abs().max() > 1e-3, "routing the last token makes a difference here"

    def chunks(bounds, says):
        cache, pieces = GazeCache(model.config.gaze_config.override(**ANSWER)), []
        for start, stop in zip(bounds, bounds[1:], strict=False):
            first = {"pixel_values": batch["pixel_values"], "grid_thw": batch["grid_thw"]} if start == 0 else {}
            output = model(
                input_ids=ids[:, start:stop],
                attention_mask=mask[:, :stop],
                mm_token_type_ids=types[:, start:stop],
                past_key_values=cache,
                use_cache=True,
                gaze=ANSWER,
                routed=routed[:, start:stop] if says else None,
                **first,
            )
            pieces.append(output.logits)
        return torch.cat(pieces, 1)[:, cut:]

    for bounds in ([0, length], [0, cut, length], [0, cut, length - 1, length], [0, *range(cut, length + 1)]):
        torch.testing.assert_close(chunks(bounds, says=True), want, rtol=1e-3, atol=1e-3)
        if len(bounds) > 2:
            with pytest.raises(ValueError, match="say which by routed="):
                chunks(bounds, says=False)


@torch.no_grad()
def test_generate_with_a_dense_prompt_routes_each_new_token(model, batch):
    output = model.generate(**batch, gaze=ANSWER, return_gaze=True, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert (output.gaze.attended_visual == 4).all(), "K=1 region of 2×2, from the first new token on"
    inputs, tokens = dict(batch), []
    cache = model(**inputs, gaze=ANSWER, use_cache=True, logits_to_keep=1)
    for _ in range(4):
        tokens.append(cache.logits[:, -1].argmax(-1, keepdim=True))
        mask = torch.ones(2, batch["input_ids"].shape[1] + len(tokens), dtype=torch.int64)
        mask[:, : batch["attention_mask"].shape[1]] = batch["attention_mask"]
        cache = model(
            input_ids=tokens[-1],
            attention_mask=mask,
            past_key_values=cache.past_key_values,
            gaze=ANSWER,
            routed=torch.ones_like(tokens[-1], dtype=torch.bool),
            use_cache=True,
        )
    assert torch.equal(output.sequences[:, -4:], torch.cat(tokens, 1))
