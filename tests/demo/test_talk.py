"""Answers token by token: the same as `generate` gives, and ended when nobody waits."""

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from cambrian_gaze.baselines.registry import make_policy
from cambrian_gaze.demo.arrivals import Stop
from cambrian_gaze.demo.compare import compare, table
from cambrian_gaze.demo.conversation import Conversation, Steering
from cambrian_gaze.demo.talk import Talker
from tests.demo.conftest import SHORT

REGIONS = 16


@pytest.fixture
def asked(picture: Path) -> Conversation:
    conversation = Conversation()
    conversation.look_at(picture, SHORT)
    conversation.ask("What is it?", SHORT)
    return conversation


def generated(talker: Talker, conversation: Conversation, **options):
    inputs = talker.processor.apply_chat_template(conversation.messages, add_generation_prompt=True, tokenize=True)
    output = talker.model.generate(**inputs, max_new_tokens=8, do_sample=False, return_gaze=True, **options)
    return output.sequences[0, inputs["input_ids"].shape[1] :].tolist(), output.gaze


def test_an_answer_grows_to_what_generate_gives(talker: Talker, asked: Conversation) -> None:
    steps = list(talker.answer(asked, Steering(top_k=2)))
    ids, gaze = generated(talker, asked, gaze={"top_k": 2})
    last = steps[-1]
    assert last.done and last.trace.token_ids.tolist() == ids
    np.testing.assert_array_equal(last.trace.regions, gaze.regions[0].numpy())
    assert last.trace.logprobs is not None and last.trace.items[0].size == (96, 64)
    lengths = [len(step.trace.tokens) for step in steps]
    assert lengths == sorted(lengths) and not any(step.done for step in steps[:-1])
    for step in steps[:-1]:
        np.testing.assert_array_equal(step.trace.regions, last.trace.regions[: len(step.trace.tokens)])
    assert last.times.first > 0 and len(last.times.steps) == len(ids) - 1
    quiet = list(talker.answer(asked, Steering(top_k=2), live=False))
    assert len(quiet) == 1 and quiet[0].text == last.text


def test_hidden_regions_are_never_seen_and_forced_ones_alone(talker: Talker, asked: Conversation) -> None:
    def seen(steering: Steering) -> set[int]:
        *_, last = talker.answer(asked, steering, live=False)
        denied = torch.zeros(1, REGIONS, dtype=torch.bool)
        denied[
            0, [r for r in range(REGIONS) if r in steering.hidden or steering.forced and r not in steering.forced]
        ] = True
        expected, _ = generated(talker, asked, gaze={"top_k": steering.top_k}, hidden_regions=denied)
        assert last.trace.token_ids.tolist() == expected
        assert last.trace.steering == {"hidden": sorted(steering.hidden), "forced": sorted(steering.forced)}
        return set(last.trace.regions[last.trace.regions >= 0].tolist())

    hidden = frozenset(range(0, REGIONS, 2))
    assert seen(Steering(4, hidden=hidden)) and not seen(Steering(4, hidden=hidden)) & hidden
    assert seen(Steering(4, forced=frozenset({3, 7, 9}))) <= {3, 7, 9}
    # A budget that holds every region holds all that are left.
    assert seen(Steering(REGIONS, hidden=frozenset({5}))) == set(range(REGIONS)) - {5}


def test_hiding_everything_is_refused(talker: Talker, asked: Conversation) -> None:
    with pytest.raises(ValueError, match="every region is hidden"):
        list(talker.answer(asked, Steering(2, hidden=frozenset(range(REGIONS)))))


def test_whoever_goes_away_or_stops_it_ends_the_answer(talker: Talker, asked: Conversation) -> None:
    before = threading.active_count()
    answer = talker.answer(asked)
    assert not next(answer).done
    answer.close()
    assert threading.active_count() == before
    stop = Stop()
    stop.set()
    *_, last = talker.answer(asked, stop=stop)
    assert last.done and len(last.trace.tokens) == 1


def test_an_error_of_the_model_reaches_the_reader(
    talker: Talker, asked: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**options):
        raise ValueError("no such thing")

    monkeypatch.setattr(talker.model, "generate", fail)
    with pytest.raises(ValueError, match="no such thing"):
        list(talker.answer(asked))


def test_three_ways_are_counted(talker: Talker, asked: Conversation) -> None:
    items = talker.items(asked)
    dense, gaze, evicted = list(compare(talker, asked, Steering(top_k=2), items))[-1]
    total = items[0].grid[1] * items[0].grid[2]
    context = talker.config.num_context_tokens
    assert (dense.visual, dense.kept, dense.attended) == (total, total, total + context)
    assert (gaze.visual, gaze.kept) == (8, total) and gaze.name == "gaze, K=2"
    assert (evicted.visual, evicted.kept) == (8, 8)
    assert evicted.trace.kept.shape == (gaze.trace.regions.shape[1], total)
    np.testing.assert_allclose(evicted.trace.kept.sum(1), 8)
    assert (evicted.trace.regions < 0).all() and dense.trace.kept is None
    text = table([dense, gaze, evicted])
    assert text.count("<tr>") == 4 and "saves neither time nor" in text
    with pytest.raises(ValueError, match="nothing to compare"):
        list(compare(talker, Conversation(), Steering(), []))


def test_what_eviction_kept_is_what_it_attends_to(talker: Talker, asked: Conversation) -> None:
    """A token that no head of a layer kept is counted by none."""
    *_, last = talker.answer(asked, policy=make_policy("uniform", {"budget": 8}), live=False)
    assert set(np.unique(last.trace.kept)) == {0.0, 1.0} and (last.trace.attended[..., 0] == 8).all()


def test_turns_and_videos(talker: Talker, picture: Path, video: Path) -> None:
    conversation = Conversation()
    conversation.look_at(picture, SHORT)
    conversation.ask("First?", SHORT)
    *_, first = talker.answer(conversation, live=False)
    conversation.answered(first.text)
    conversation.look_at(video, SHORT)
    conversation.ask("And now?", SHORT)
    *_, second = talker.answer(conversation, live=False)
    assert [item.kind for item in second.trace.items] == ["image", "video"]
    assert second.trace.items[1].grid[0] == 4 and len(second.trace.boxes) == 5 * REGIONS
    assert second.trace.prompt == "And now?"
    assert list(itertools.chain.from_iterable(second.trace.edges(1)))[0] == 0
