"""Frames that come one after another, questions in between: the same as a fresh prefill of the same tokens."""

import pytest
import torch
from torch import Tensor

from cambrian_gaze.baselines.registry import make_policy
from cambrian_gaze.models.cache.cache import GazeCache
from cambrian_gaze.models.cache.paging import PagedGazeCache
from cambrian_gaze.models.streaming import GazeStream
from tests.models.conftest import make_model, noise

SPECIAL = list(range(504, 512))
"""Of the tiny tokenizer: a model without training may well say them, and a picture's placeholder is no text."""
GREEDY = dict(max_new_tokens=5, min_new_tokens=5, do_sample=False, suppress_tokens=SPECIAL)
PROBE = torch.tensor([[40, 41, 42]])


@pytest.fixture(scope="module", params=[(1, 2, 2), (2, 2, 2), (3, 3, 3)], ids=str)
def temporal(request) -> object:
    """Models whose regions span 1, 2 and 3 frames."""
    return make_model(gaze={"image": {"region_size": list(request.param), "top_k": 2}})


def pictures(*numbers):
    return [noise(number) for number in numbers]


def typed(model, ids):
    types = torch.zeros_like(ids)
    types[ids == model.config.video_token_id] = 2
    types[ids == model.config.context_token_id] = 3
    return types


@torch.no_grad()
def fresh(model, processor, stream: GazeStream, numbers, probe=PROBE):
    """Logits of some text after everything that the stream holds, in one call without a cache, and a cache of it."""
    ids = torch.cat([stream.input_ids, probe], 1)
    cache = GazeCache(model.config.gaze_config)
    pixels = processor.preprocess_images(pictures(*numbers))
    given = dict(input_ids=ids, mm_token_type_ids=typed(model, ids), pixel_values=pixels, grid_thw=stream.grid_thw)
    return model(**given, cache=cache, use_cache=True).logits[:, -probe.shape[1] :], cache


@torch.no_grad()
def streamed(model, stream: GazeStream, probe=PROBE):
    """The same logits from the stream's cache, which is left as it was."""
    length = stream.cache.length
    ids = torch.cat([stream.input_ids[:, length:], probe], 1)
    logits = model(input_ids=ids, cache=stream.cache, use_cache=True).logits[:, -probe.shape[1] :]
    return logits, length


def assert_equal_to_fresh(model, processor, stream, numbers):
    want, cache = fresh(model, processor, stream, numbers)
    got, length = streamed(model, stream)
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    for mine, theirs in zip(stream.cache.layers, cache.layers, strict=True):
        assert torch.allclose(mine.descriptors, theirs.descriptors, rtol=1e-4, atol=1e-5)
    stream.cache.crop(length)


@pytest.mark.parametrize("pieces", [[5], [1, 1, 1, 1, 1], [2, 3], [3, 1, 1]], ids=str)
@pytest.mark.parametrize("frames_per_call", [2, 8])
def test_frames_in_pieces_equal_a_fresh_prefill(temporal, processor, pieces, frames_per_call):
    stream = temporal.stream(processor, frames_per_call=frames_per_call)
    seen = 0
    for count in pieces:
        stream.append(pictures(*range(seen, seen + count)))
        seen += count
        assert_equal_to_fresh(temporal, processor, stream, range(seen))
    assert stream.frames == 5 and stream.grid_thw.tolist() == [[5, 8, 8]], "one video"


def test_forgotten_questions_leave_no_trace(temporal, processor):
    """Between frames of one temporal region too: it is completed as if nobody had asked."""
    stream = temporal.stream(processor)
    for number in range(4):
        stream.append(pictures(number))
        first = stream.ask("what is this?", **GREEDY)
        again = stream.ask("what is this?", **GREEDY)
        assert first.text == again.text and torch.equal(first.ids, again.ids)
        assert_equal_to_fresh(temporal, processor, stream, range(number + 1))
    assert stream.grid_thw.tolist() == [[4, 8, 8]]


def test_an_answer_is_that_of_a_chat_with_the_whole_video(temporal, processor):
    stream = temporal.stream(processor)
    stream.append(pictures(0, 1))
    stream.append(pictures(2))
    answer = stream.ask("what is this?", **GREEDY, return_gaze=True)
    parts = [{"type": "video", "video": pictures(0, 1, 2)}, {"type": "text", "text": "what is this?"}]
    chat = [{"role": "user", "content": parts}]
    inputs = processor.apply_chat_template(chat, tokenize=True, add_generation_prompt=True)
    whole = temporal.generate(**inputs, **GREEDY, return_gaze=True)
    assert torch.equal(answer.ids, whole.sequences[0, inputs["input_ids"].shape[1] :])
    assert answer.text == str(answer) == processor.tokenizer.decode(answer.ids, skip_special_tokens=True).strip()
    assert torch.equal(answer.gaze.regions, whole.gaze.regions)
    assert answer.gaze.boxes == whole.gaze.boxes
    assert torch.equal(answer.gaze.grid_thw, whole.gaze.grid_thw)


def test_kept_questions_are_turns_of_the_chat(temporal, processor):
    """Text closes the video: the frames after it are another one."""
    stream = temporal.stream(processor)
    stream.append(pictures(0, 1, 2))
    stream.ask("forget me", **GREEDY)
    answers = [stream.ask("what is this?", **GREEDY, keep=True).text, stream.ask("sure?", **GREEDY, keep=True).text]
    stream.append(pictures(3))
    stream.append(pictures(4))
    answers.append(stream.ask("and now?", **GREEDY, keep=True).text)
    assert stream.grid_thw.tolist() == [[3, 8, 8], [2, 8, 8]]
    assert_equal_to_fresh(temporal, processor, stream, range(5))
    text = processor.tokenizer.decode(stream.input_ids[0])
    assert "forget me" not in text and text.count("<|im_start|>user\n") == 4
    assert text.index("what is this?") < text.index("sure?") < text.index("and now?")


def test_kept_text_equals_a_chat(processor, model):
    """The ids are those of the chat template, where the answer holds nothing but text."""
    stream = model.stream(processor)
    stream.append(pictures(0))
    vocabulary = processor.tokenizer.get_vocab()
    assert {vocabulary[token] for token in processor.tokenizer.added_tokens_encoder} == set(SPECIAL)
    others = [number for token, number in vocabulary.items() if not (token.isascii() and token.isalpha())]
    answer = stream.ask("one?", max_new_tokens=1, do_sample=False, suppress_tokens=others, keep=True)
    stream.append(pictures(1))
    user = [[{"type": "video", "video": pictures(n)}] for n in (0, 1)]
    user[0].append({"type": "text", "text": "one?"})
    user[1].append({"type": "text", "text": "two?"})
    said = processor.tokenizer.decode(answer.ids)
    roles = ("user", "assistant", "user")
    chat = [{"role": r, "content": c} for r, c in zip(roles, (user[0], said, user[1]), strict=True)]
    whole = processor.apply_chat_template(chat, tokenize=True)["input_ids"]
    assert torch.equal(stream.input_ids, whole[:, : stream.input_ids.shape[1]])


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}])
def test_beams_and_samples(temporal, processor, keep, options):
    stream = temporal.stream(processor)
    stream.append(pictures(0, 1))
    answer = stream.ask("what is this?", **{**GREEDY, **options}, keep=keep, return_gaze=True)
    assert len(answer.gaze.boxes) == len(answer.gaze.regions)
    assert stream.cache.last.shape[0] == 1
    if not options.get("do_sample"):
        parts = [{"type": "video", "video": pictures(0, 1)}, {"type": "text", "text": "what is this?"}]
        chat = [{"role": "user", "content": parts}]
        inputs = processor.apply_chat_template(chat, tokenize=True, add_generation_prompt=True)
        whole = temporal.generate(**inputs, **GREEDY, **options)
        assert torch.equal(answer.ids, whole[0, inputs["input_ids"].shape[1] :])
    stream.append(pictures(2))
    assert stream.grid_thw.tolist() == ([[2, 8, 8], [1, 8, 8]] if keep else [[3, 8, 8]])
    assert_equal_to_fresh(temporal, processor, stream, range(3))


def test_a_question_before_the_first_frame(temporal, processor):
    stream = temporal.stream(processor)
    stream.ask("who are you?", **GREEDY)
    assert stream.cache.length == 0
    stream.ask("who are you?", **GREEDY, keep=True)
    stream.append(pictures(0, 1))
    assert_equal_to_fresh(temporal, processor, stream, range(2))


def test_a_failed_question_changes_nothing(temporal, processor):
    stream = temporal.stream(processor)
    stream.append(pictures(0))
    with pytest.raises(ValueError):
        stream.ask("what?", keep=True, no_such_option=1)
    stream.append(pictures(1))
    assert stream.grid_thw.tolist() == [[2, 8, 8]]
    assert_equal_to_fresh(temporal, processor, stream, range(2))


def test_pages_in_host_memory(temporal, processor):
    """The stream of a paged cache: the same answers, and appended frames are written to the host."""
    answers = []
    for offload in (None, "256KiB"):
        stream = temporal.stream(processor, gaze_offload=offload)
        for number in range(4):
            stream.append(pictures(number))
            answers.append(stream.ask("what is this?", **GREEDY).ids)
        answers.append(stream.ask("and this?", **GREEDY, num_beams=2, keep=True).ids)
        stream.append(pictures(4))
        last = stream.ask("and that?", **GREEDY, keep=True)
        answers.append(last.ids)
        assert_equal_to_fresh(temporal, processor, stream, range(5))
    half = len(answers) // 2
    assert all(torch.equal(a, b) for a, b in zip(answers[:half], answers[half:], strict=True))
    assert isinstance(stream.cache, PagedGazeCache) and last.paging.hits > 0 and last.paging.bytes_to_host > 0


def test_only_touched_regions_are_read_and_described(model, processor, monkeypatch):
    """Appending a frame costs the descriptors of its own regions, not those of the history."""
    described = []
    from cambrian_gaze.models.cache import layer as cache_layer

    plain = cache_layer.describe
    monkeypatch.setattr(
        cache_layer, "describe", lambda keys, region, n, kind: described.append(n) or plain(keys, region, n, kind)
    )
    stream = model.stream(processor)
    stream.append(pictures(0, 1, 2))
    stream.append(pictures(3))
    layers = model.config.text_config.num_hidden_layers
    assert described == [48] * layers + [16] * layers
    kept = [layer.descriptors[:, :, :48].clone() for layer in stream.cache.layers]
    stream.append(pictures(4))
    assert all(torch.equal(layer.descriptors[:, :, :48], k) for layer, k in zip(stream.cache.layers, kept, strict=True))


def test_a_processed_tensor_does_as_well(model, processor):
    streams = [model.stream(processor) for _ in range(2)]
    streams[0].append(pictures(0, 1))
    streams[1].append(processor.preprocess_images(pictures(0, 1)))
    assert torch.equal(*(stream.ask("what?", **GREEDY).ids for stream in streams))


def test_run_time_options_hold_for_the_whole_stream(model, processor):
    answer = model.stream(processor, gaze={"top_k": 1}).ask("what?", **GREEDY)
    assert answer.paging is None
    stream = model.stream(processor, gaze={"top_k": 1})
    stream.append(pictures(0, 1))
    gaze = stream.ask("what?", **GREEDY, return_gaze=True).gaze
    assert gaze.regions.shape[-1] == 1 and (gaze.attended_visual == 4).all()


def policy_stream(processor, name, **options):
    """A stream of single frames under a policy, and the model's own rule where every frame is a region."""
    model = make_model(gaze={"image": {"region_size": [1, 2, 2], "top_k": 2}})
    return model, model.stream(processor, policy=make_policy(name, options), frames_per_call=1)


def held_so_far(stream: GazeStream) -> Tensor:
    """int64 [layers, KV heads]."""
    return stream.cache.policy.retained_visual(stream.cache.page_layout)[0]


def in_one_call(model, processor, stream: GazeStream, question, numbers, name, **options):
    """What `generate` answers under the policy to the stream's tokens and a question, given together."""
    ids = torch.cat([stream.input_ids, torch.tensor([stream._turn(question)])], 1)
    pixels = processor.preprocess_images(pictures(*numbers))
    given = dict(input_ids=ids, mm_token_type_ids=typed(model, ids), pixel_values=pixels, grid_thw=stream.grid_thw)
    policy = make_policy(name, options)
    output = model.generate(**given, policy=policy, return_gaze=True, **GREEDY)
    return output.sequences[0, ids.shape[1] :], output


def test_a_policy_is_asked_after_each_frame(processor):
    """InfiniPot-V: no more than its block of frames is ever in memory, and what stays is that of one call."""
    options = {"block": 4, "keep": 2, "query_ratio": 0.25}
    model, stream = policy_stream(processor, "infinipot_v", **options)
    each = int(torch.tensor(model.config.grid).prod())
    counts = []
    for number in range(7):
        stream.append(pictures(number))
        assert (held_so_far(stream) == held_so_far(stream)[0, 0]).all()
        counts.append(int(held_so_far(stream)[0, 0]) // each)
    assert counts == [1, 2, 3, 2, 3, 2, 3], "the fourth frame in memory begins a compression"
    answer = stream.ask("What?", return_gaze=True, **GREEDY)
    want, whole = in_one_call(model, processor, stream, "What?", range(7), "infinipot_v", **options)
    assert torch.equal(answer.ids, want)
    assert torch.equal(answer.retained, whole.retained[0]) and (answer.retained == 3 * each).all()
    assert (answer.gaze.attended_visual == 3 * each).all(), "counted"


@pytest.mark.parametrize(
    ("name", "options", "seen"),
    [
        ("snapkv", {"budget": 8}, 8),
        ("rekv", {"top_k": 1}, None),
        ("recent", {"budget": 8}, 8),
        ("infinipot_v", {"budget": 8}, 8),
    ],
)
def test_a_forgotten_question_leaves_the_memory_of_a_policy(processor, name, options, seen):
    """Each question counts its budget exactly, answers as in one call, and later frames and questions know nothing of
    it."""
    model, stream = policy_stream(processor, name, **options)
    each = int(torch.tensor(model.config.grid).prod())
    seen = each if seen is None else seen
    stream.append(pictures(0, 1))
    for numbers in ((0, 1), (0, 1, 2)):
        before = held_so_far(stream)
        for question in ("What?", "And where is it?"):
            answer = stream.ask(question, return_gaze=True, **GREEDY)
            want, whole = in_one_call(model, processor, stream, question, numbers, name, **options)
            assert torch.equal(answer.ids, want)
            assert (answer.gaze.attended_visual == seen).all() and torch.equal(answer.retained, whole.retained[0])
            assert torch.equal(held_so_far(stream), before) and (before == each * len(numbers)).all()
        stream.append(pictures(2))


def test_what_a_policy_cannot_do_in_a_stream_is_said(processor):
    for name, options in (("hermes", {"budget": 8}), ("fastv", {"layer": 1, "budget": 8})):
        with pytest.raises(ValueError, match=f"policy '{name}' looks at the whole prompt"):
            policy_stream(processor, name, **options)
    model, stream = policy_stream(processor, "snapkv", budget=8)
    with pytest.raises(ValueError, match="leave gaze_offload out"):
        model.stream(processor, policy=make_policy("snapkv", {"budget": 8}), gaze_offload="1GiB")
    with pytest.raises(ValueError, match="give it to stream"):
        stream.ask("What?", policy=make_policy("snapkv", {"budget": 8}))
    assert stream.ask("Is there a picture?", **GREEDY).text is not None, "nothing to decide about yet"
    stream.append(pictures(0))
    stream.ask("What?", keep=True, **GREEDY)
    with pytest.raises(ValueError, match="each question a cache of its own"):
        stream.ask("And now?", **GREEDY)
