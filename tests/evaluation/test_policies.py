"""Answers under a policy: counted against its budget, known by its options, and refused beside a budget of regions."""

import dataclasses
import json

import pytest
import torch

from cambrian_gaze.baselines.registry import POLICIES, make_policy
from cambrian_gaze.evaluation.answers import answer_records
from cambrian_gaze.evaluation.cost.counts import Limits, count_attended
from cambrian_gaze.evaluation.journal import Journal
from cambrian_gaze.evaluation.questions import AnswerOptions
from cambrian_gaze.evaluation.results import read_results, write_scores
from tests.baselines._policies import COMPRESSED, OPTIONS
from tests.evaluation._runs import evaluate


def answer(tiny, records, folder, path, name, **options):
    how = AnswerOptions({"max_new_tokens": 4, "do_sample": False}, policy=make_policy(name, OPTIONS[name] | options))
    with Journal(path) as journal:
        return answer_records(*tiny, records, folder, journal, how)


@pytest.mark.parametrize("name", POLICIES)
def test_counts_are_those_of_the_budget(tiny, records, folder, tmp_path, name):
    """Of a gaze model: its four context tokens per picture are seen by all."""
    entries = answer(tiny, records, folder, tmp_path / "answers.jsonl", name)
    for entry, pictures in zip(entries, (1, 1, 1, 2, 0), strict=True):
        dense = 64 * pictures
        left = COMPRESSED.get(name, (8, 8))[pictures - 1]
        seen = min(dense, left) if name != "fastv" else (dense + 2 * min(dense, 8)) / 3
        kept = dense if name in ("static_gaze", "rekv", "quest") else seen
        assert entry["attended"] == pytest.approx(
            {"visual": seen, "context": 4.0 * pictures, "of": dense, "retained": kept}
        )


def test_options_are_part_of_an_answers_identity(tiny, records, folder, tmp_path):
    path = tmp_path / "answers.jsonl"
    for budget in (8, 12, 8):
        answer(tiny, records[:1], folder, path, "recent", budget=budget)
    answer(tiny, records[:1], folder, path, "uniform")
    assert len({json.loads(line)["key"] for line in path.read_text().splitlines()}) == 3


def test_what_differs_from_the_promise_fails(tiny, records, folder, tmp_path):
    policy = make_policy("recent", {"budget": 8})
    config = AnswerOptions(policy=policy).gaze_config(tiny[0])
    trace = type("Trace", (), {})()
    trace.attended_visual = torch.full((1, 2, 3, 4), 8)
    trace.attended_context = torch.full((1, 2, 3, 4), 4)
    kept = torch.full((3, 2), 8)

    def counted(kept: torch.Tensor) -> dict[str, float]:
        return count_attended(trace, 0, 2, [(1, 8, 8)], [1], config, Limits(policy, kept))

    assert counted(kept)["retained"] == 8
    with pytest.raises(RuntimeError, match="counted 8 to 9 visual KV entries kept in layer 1"):
        counted(kept + torch.tensor([[0, 0], [0, 1], [0, 0]]))
    trace.attended_visual[0, 1, 2, 3] = 7
    with pytest.raises(RuntimeError, match="counted 7 to 8 visual KV entries in layer 2"):
        counted(kept)


def test_gaze_may_choose_among_what_is_left(tiny, records, folder, tmp_path):
    limits = {"gaze": {"top_k": 2}, "policy": make_policy("infinipot_v", {"budget": 24})}
    with Journal(tmp_path / "answers.jsonl") as journal:
        how = AnswerOptions({"max_new_tokens": 4, "do_sample": False}, **limits)
        entries = answer_records(*tiny, records, folder, journal, how)
    for entry, pictures in zip(entries, (1, 1, 1, 2, 0), strict=True):
        assert entry["attended"]["retained"] == (24 if pictures else 0)
        assert 2 * bool(pictures) <= entry["attended"]["visual"] <= 8


def test_a_budget_of_regions_beside_a_choice_by_the_question_is_refused(tiny, records, folder, tmp_path):
    how = AnswerOptions(gaze={"top_k": 2}, policy=make_policy("snapkv", {"budget": 8}))
    with Journal(tmp_path / "answers.jsonl") as journal, pytest.raises(ValueError, match="give one of them"):
        answer_records(*tiny, records, folder, journal, how)


def test_a_run_of_benchmarks(tiny, data_root, tmp_path):
    policy = make_policy("hermes", {"budget": 8})
    assert evaluate(tiny, data_root, tmp_path, ["mmvp"], policy=policy) == {}
    (result, *_) = read_results(tmp_path).values()
    assert result.attended() == {"visual": 8, "context": 4, "of": 64}
    assert result.task["policy"]["name"] == "hermes" and result.task["gaze"]["image"]["keep_ratio"] == 1.0
    write_scores(tmp_path, read_results(tmp_path))
    wrong = dataclasses.replace(result, task=result.task | {"policy": result.task["policy"] | {"budget": 12}})
    with pytest.raises(RuntimeError, match="counted 8"):
        wrong.attended()
