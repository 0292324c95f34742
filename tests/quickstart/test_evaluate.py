"""Scores of arms from answers written by hand: what counts as read, and where a head should have looked."""

import json

import pytest

from cambrian_gaze.attention.policy.policy import Shown
from cambrian_gaze.data.records.records import Record
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.quickstart.arms import ARMS, CHOOSING_ONCE, check_lines
from cambrian_gaze.quickstart.evaluate import cell_regions, policy_of, score_arm, value_steps
from cambrian_gaze.quickstart.task import ADDRESSES, count_question, read_question

GAZE_K2 = next(arm for arm in ARMS if arm.name == "gaze_k2")
CONFIG = GazeConfig.from_dict({"image": {"region_size": [1, 2, 2], "top_k": 2}})


class Words:
    """A processor whose tokens are words: " B3" is one token, " 7" another."""

    grid_hw = (8, 8)

    def encode(self, text):
        return [" " + word for word in text.split()] + ["<end>"]

    def decode(self, tokens, skip_special_tokens=True):
        return "".join(token for token in tokens if token != "<end>").strip()


def make(digits, page, wrong=()):
    """Records of one page and their answers, right but for the cells `wrong`, looked up in the cell and region 0."""
    words, records, answers = Words(), [], []
    for question in (read_question(digits, range(16)), count_question(digits)):
        text = question.answer
        for address in wrong:
            text = text.replace(f"{address} {digits[ADDRESSES.index(address)]}", f"{address} {9}")
        turns = [{"from": "human", "value": f"<image>\n{question.prompt}"}, {"from": "gpt", "value": question.answer}]
        extra = {"family": question.family, "target": [list(pair) for pair in question.target], "page": page}
        records.append(Record(f"{page}-{question.family}", turns, ["x.png"], extra=extra))
        tokens = words.encode(text)
        regions = [[[[0, 1], [0, 1]], [[0, 1], [0, 1]]] for _ in tokens]
        for step, address, _ in value_steps({"tokens": tokens, "answer": text}, words):
            regions[step][1][0] = [ADDRESSES.index(address), 0]
        attended = {"visual": 8.0, "context": 4.0, "of": 64}
        answers.append({"answer": text, "tokens": tokens, "seconds": 0.5, "attended": attended, "regions": regions})
    return records, answers


@pytest.fixture
def pages():
    first, second = make([1, 2, 3, 4] * 4, "p0", wrong=["A1", "D4"]), make([5, 6, 7, 8] * 4, "p1")
    return first[0] + second[0], first[1] + second[1]


def test_an_arm_by_hand(pages):
    entry = score_arm(GAZE_K2, *pages, CONFIG, Words(), 2)
    assert entry["accuracy"] == 30 / 32 and entry["n"] == 32
    assert entry["accuracy_global"] == 1.0 and entry["n_global"] == 20
    low, high = entry["ci95"]
    assert low <= entry["accuracy"] <= high == 1.0
    assert entry["attended_visual_kv"] == entry["cost_model_kv"] == 12
    assert entry["visual_tokens"] == entry["retained_visual_kv"] == 64
    assert entry["tokens_per_s"] == sum(len(answer["tokens"]) for answer in pages[1]) / 2.0
    json.dumps(entry)


def test_recall_by_hand(pages):
    recall = score_arm(GAZE_K2, *pages, CONFIG, Words(), 2)["routing_recall"]
    assert recall["chance"] == 0.125 and recall["n"] == 32
    assert recall["best"] == {"layer": 1, "head": 0, "recall": 1.0}
    assert recall["table"] == [[0.125, 0.125], [1.0, 0.125]]


def test_steps_of_values():
    words = Words()
    text = "Read B3 7 C1 12 X9 3"
    assert value_steps({"tokens": words.encode(text), "answer": text}, words) == [(2, "B3", 7), (4, "C1", 12)]


def test_regions_of_cells():
    assert list(cell_regions((8, 8), (1, 2, 2)).values()) == list(range(16))
    assert cell_regions((8, 8), (1, 4, 4))["D4"] == 3
    assert cell_regions((8, 8), (1, 8, 8))["A1"] == 0


def test_arms_are_those_of_the_table():
    assert [arm.name for arm in ARMS] == [
        "dense", "gaze_k2", "gaze_k1", "gaze_k4", "gaze_k16", "dense_routed_k2",
        "static_gaze_k2", "evict_question", "infinipot_v", "hermes", "evict_random",
        "gaze_k2_no_context", "gaze_k2_blind",
    ]  # fmt: skip
    assert [arm.name for arm in ARMS if not arm.keeps_regions] == ["dense", "gaze_k16", *CHOOSING_ONCE]
    for arm in (arm for arm in ARMS if arm.name in CHOOSING_ONCE):
        shown = Shown((64,), (4,) * 16)
        assert arm.checkpoint == "dense" and [policy_of(arm).attends(shown, n, 3) for n in range(3)] == [(8, 8)] * 3


def test_check_lines():
    recall = {"chance": 0.125, "best": {"recall": 0.99}}
    gaze = {"accuracy": 0.97, "routing_recall": recall, "visual_tokens": 64}
    arms = {"gaze_k2": gaze, "dense": {"accuracy": 0.98}, "gaze_k2_blind": {"accuracy": 0.1}}
    arms |= {"dense_routed_k2": {"accuracy": 0.96}} | {name: {"accuracy": 0.3} for name in CHOOSING_ONCE}
    arms = {name: {**arm, "attended_visual_kv": 12.0, "cost_model_kv": 12} for name, arm in arms.items()}
    assert all(check_lines(arms).values())
    assert not all(check_lines({**arms, "dense": {**arms["dense"], "accuracy": 0.995}}).values())
    assert not all(check_lines({**arms, "gaze_k2_blind": {**arms["dense"], "accuracy": 0.3}}).values())
    assert not all(check_lines({**arms, "dense": {**arms["dense"], "attended_visual_kv": 11.5}}).values())
    assert not all(check_lines({**arms, "hermes": {**arms["hermes"], "accuracy": 0.9}}).values())
    failed = [
        statement
        for statement, holds in check_lines({**arms, "dense_routed_k2": {**gaze, **arms["gaze_k2_blind"]}}).items()
        if not holds
    ]
    assert len(failed) == 1 and "the same dense-trained model routed at K=2 -0.200 more" in failed[0]
    assert not all(check_lines({**arms, "hermes": {**arms["hermes"], "cost_model_kv": 8}}).values())
