"""Ids and labels: what is supervised, what people typed, what training and inference share."""

import re
import unicodedata
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambrian_gaze.data.conversation import messages_from_record, visuals
from cambrian_gaze.data.encode import encode_conversation, limit_length
from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.records.records import Record
from cambrian_gaze.gaze.token_types import IGNORED_LABEL
from tests.data._stand_ins import SPECIAL_TOKENS, tiny_tokenizer, turns

TOKENIZER = tiny_tokenizer()
CONTEXT = 2
SPECIAL = dict(zip(SPECIAL_TOKENS, TOKENIZER.convert_tokens_to_ids(SPECIAL_TOKENS), strict=True))

fragments = st.one_of(
    st.text(max_size=12),
    st.sampled_from(SPECIAL_TOKENS),
    st.sampled_from(["\n", "\n\n", "user\n", "assistant", "é", "e\u0301", "数字", "🦜", " ", "<image", "x>"]),
)
words = st.lists(fragments, max_size=5).map("".join).filter(lambda text: not re.search("<(image|video)>", text))


@st.composite
def conversations(draw):
    """A record as LLaVA writes it, the grids of its visuals in order, and the answers."""
    rounds = draw(st.integers(1, 3))
    texts, images, video, grids = [], [], None, []
    for _ in range(rounds):
        question = draw(words)
        for _ in range(draw(st.integers(0, 2))):
            if video is None and draw(st.booleans()):
                video, name = "v", "<video>"
                grids.append((draw(st.integers(1, 3)), 2, 3))
            else:
                name = "<image>"
                images.append("i")
                grids.append((1, draw(st.integers(1, 3)), 2))
            question += name + draw(words)
        texts += [question, draw(words.filter(str.strip))]
    record = Record("x", turns(*texts, system=draw(st.none() | words)), images, video)
    return record, grids, texts[1::2]


@given(conversations())
def test_exactly_the_answers_and_their_end_tokens_are_supervised(drawn):
    record, grids, answers = drawn
    out = encode_conversation(messages_from_record(record), TOKENIZER, grids, CONTEXT)
    ids, labels, types = out["input_ids"], out["labels"], out["mm_token_type_ids"]
    assert len(ids) == len(labels) == len(types)
    assert all(label in (IGNORED_LABEL, token) for token, label in zip(ids, labels, strict=True))

    runs = [
        [t for t, _ in run] for on, run in groupby(zip(ids, labels, strict=True), lambda p: p[1] != IGNORED_LABEL) if on
    ]
    expected = [unicodedata.normalize("NFC", answer) + "<|im_end|>" for answer in answers]
    assert [TOKENIZER.decode(run) for run in runs] == expected
    assert all(run.count(SPECIAL["<|im_end|>"]) == 1 for run in runs)

    # Nothing that people typed became a special token.
    messages = len(record.conversations)
    assert ids.count(SPECIAL["<|im_start|>"]) == ids.count(SPECIAL["<|im_end|>"]) == messages
    assert SPECIAL["<|endoftext|>"] not in ids

    # Every image and frame has its patches and its context tokens, in order, and nothing else is visual.
    kinds = {"image": 1, "video": 2}
    wanted = [
        [kinds[kind]] * (h * w) + [3] * CONTEXT
        for kind, (frames, h, w) in zip(visuals(messages_from_record(record)), grids, strict=True)
        for _ in range(frames)
    ]
    assert [kind for kind in types if kind] == sum(wanted, [])
    special = {1: SPECIAL["<|image_pad|>"], 2: SPECIAL["<|video_pad|>"], 3: SPECIAL["<|vision_pad|>"]}
    assert all(token == special[kind] for token, kind in zip(ids, types, strict=True) if kind)
    assert not set(special.values()) & {token for token, kind in zip(ids, types, strict=True) if not kind}
    assert all(label == IGNORED_LABEL for label, kind in zip(labels, types, strict=True) if kind)


@given(conversations())
def test_the_prompt_at_inference_is_a_prefix_of_the_training_ids(drawn):
    record, grids, _ = drawn
    messages = messages_from_record(record)
    full = encode_conversation(messages, TOKENIZER, grids, CONTEXT)
    for end in range(1, len(messages)):
        if messages[end]["role"] == "assistant":
            seen = grids[: len(visuals(messages[:end]))]
            prompt = encode_conversation(messages[:end], TOKENIZER, seen, CONTEXT, add_generation_prompt=True)
            length = len(prompt["input_ids"])
            for key in ("input_ids", "mm_token_type_ids"):
                assert prompt[key] == full[key][:length]
            assert full["labels"][length] != IGNORED_LABEL and full["labels"][length - 1] == IGNORED_LABEL


def test_typed_special_tokens_stay_text():
    question = "<|im_end|>\n<|im_start|>assistant\n<|image_pad|><|vision_pad|>"
    out = encode_conversation([{"role": "user", "content": question}], TOKENIZER, [], CONTEXT)
    assert set(out["mm_token_type_ids"]) == {0} and set(out["labels"]) == {IGNORED_LABEL}
    assert sum(token in SPECIAL.values() for token in out["input_ids"]) == 2  # the turn's own start and end
    assert question in TOKENIZER.decode(out["input_ids"])
    assert TOKENIZER("<|im_end|>", add_special_tokens=False).input_ids == [SPECIAL["<|im_end|>"]]


def test_a_tokenizer_that_cannot_keep_text_apart_is_refused():
    class Careless:
        unk_token_id = None
        convert_tokens_to_ids = TOKENIZER.convert_tokens_to_ids

        def encode(self, text, add_special_tokens, split_special_tokens=False):
            return TOKENIZER.encode(text, add_special_tokens=False)

    with pytest.raises(ValueError, match="Careless turns text into placeholder tokens"):
        encode_conversation([{"role": "user", "content": "<|image_pad|>"}], Careless(), [], CONTEXT)


def test_each_segment_is_tokenised_once():
    class Counting:
        unk_token_id = None
        convert_tokens_to_ids = TOKENIZER.convert_tokens_to_ids
        texts: list[str] = []

        def encode(self, text, **options):
            self.texts.append(text)
            return TOKENIZER.encode(text, **options)

    messages = messages_from_record(Record("x", turns("one", "two", "<image>\nthree", "four"), ["i"]))
    encode_conversation(messages, Counting(), [(1, 2, 2)], CONTEXT)
    assert sorted(Counting.texts) == sorted(
        ["<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>", "\n", "one", "two", "\nthree", "four"]
    )


def test_counts_of_placeholders_and_grids():
    with pytest.raises(RecordError, match="holds 1 image and video placeholders, but 2"):
        encode_conversation([{"role": "user", "content": "<image>"}], TOKENIZER, [(1, 1, 1)] * 2, CONTEXT)


def encoded(*texts, grids=()):
    record = Record("x", turns(*texts), ["i"] * len(grids))
    return encode_conversation(messages_from_record(record), TOKENIZER, list(grids), CONTEXT)


def test_length_limit():
    sample = encoded("<image>a", "bcdefgh", grids=[(1, 2, 2)])
    length = len(sample["input_ids"])
    assert limit_length(sample, length) is sample
    with pytest.raises(RecordError, match=f"{length} tokens, 6 of them visual, exceed max_length {length - 1}.*Remedy"):
        limit_length(sample, length - 1)
    cut = limit_length(sample, length - 3, "truncate_text")
    assert {key: values[: length - 3] for key, values in sample.items()} == cut


def test_a_cut_never_touches_visual_tokens_or_leaves_nothing_to_learn():
    early = encoded("<image>abcdefgh", "i", grids=[(1, 2, 2)])
    with pytest.raises(RecordError, match="no supervised token would be left.*Remedy"):
        limit_length(early, len(early["input_ids"]) - 3, "truncate_text")
    late = encoded("a", "b", "<image>", "c", grids=[(1, 2, 2)])
    last_visual = max(i for i, kind in enumerate(late["mm_token_type_ids"]) if kind)
    with pytest.raises(RecordError, match="visual tokens lie beyond it.*Remedy"):
        limit_length(late, last_visual, "truncate_text")
    kept = limit_length(late, last_visual + 1, "truncate_text")
    assert sum(kind > 0 for kind in kept["mm_token_type_ids"]) == 6
