"""The cache under both its names, whatever the installed transformers calls it; and what attention is handed."""

from __future__ import annotations

import inspect

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from cambrian_gaze.models.cache.cache import GazeCache
from cambrian_gaze.models.hf_internals import CACHE, CACHE_NAMES, build_context, one_cache, pop_cache

NAMES = pytest.mark.parametrize("name", CACHE_NAMES)


def test_the_name_is_that_of_the_installed_transformers():
    assert CACHE in inspect.signature(BaseModelOutputWithPast).parameters


@NAMES
def test_outputs_answer_to_both_names(model, batch, name):
    for output in (model(**batch, use_cache=True), model.model(**batch, use_cache=True)):
        assert isinstance(output[CACHE], GazeCache)
        assert getattr(output, name) is output[name] is output.get(name) is output[CACHE]
        assert name in output and list(output.keys()).count(CACHE) == 1
    without = model(**batch, use_cache=False)
    assert getattr(without, name) is None and without.get(name) is None and name not in without


@NAMES
def test_forward_and_generate_take_both_names(model, batch, name):
    want = model.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    cache = GazeCache(model.config.gaze_config)
    got = model.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, **{name: cache})
    assert torch.equal(got, want)
    assert cache.length == want.shape[1] - 1
    cache = model(**batch, use_cache=True)[CACHE]
    token = batch["input_ids"][:, -1:]
    ids = {"input_ids": token, "use_cache": True}
    assert getattr(model(**ids, **{name: cache}), name) is cache
    assert cache.length == batch["input_ids"].shape[1] + 1


def test_two_caches_are_refused(model, batch):
    caches = {name: GazeCache(model.config.gaze_config) for name in CACHE_NAMES}
    with pytest.raises(ValueError, match="two names of one argument"):
        model(**batch, **caches)
    with pytest.raises(ValueError, match="two names of one argument"):
        model.generate(**batch, max_new_tokens=2, **caches)


def test_taking_the_cache_out_of_arguments():
    for name in CACHE_NAMES:
        arguments = {name: "mine", "gaze": None}
        assert pop_cache(arguments) == "mine" and arguments == {"gaze": None}
    assert pop_cache({}) is None and one_cache(None, None) is None


def test_building_a_context_changes_no_cache(model, batch):
    """A cache grows by `extend` alone, a line of the model's forward."""
    config, cache = model.config.gaze_config, GazeCache(model.config.gaze_config)
    model(**batch, cache=cache)
    model(input_ids=batch["input_ids"][:, -1:], cache=cache)
    held, plan, layout = cache.length, cache.plan, cache.last
    embeds = torch.zeros(*layout.shape, model.config.text_config.hidden_size)
    for _ in range(2):
        context = build_context(model.model.language_model, embeds, config, layout, cache)
        assert context.is_step and context.reads_cache and context.cache is cache
        assert (cache.length, cache.plan, cache.last) == (held, plan, layout)
