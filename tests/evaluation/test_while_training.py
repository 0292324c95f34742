"""Parts of benchmarks that are answered again and again: which rows, what is wrong before, the scores."""

import dataclasses
import json
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cambrian_gaze.evaluation.benchmarks import BENCHMARKS
from cambrian_gaze.evaluation.benchmarks.rows import BenchmarkRows
from cambrian_gaze.evaluation.ranks import Ranks
from cambrian_gaze.evaluation.results import read_results
from cambrian_gaze.evaluation.samples import fixed_part, read_samples
from cambrian_gaze.evaluation.while_training import BenchmarkParts, PartOptions
from tests.evaluation._runs import LENGTH, evaluate

MME = BENCHMARKS["mme"]


class Shuffled:
    """BenchmarkRows in another order."""

    source = MME.source

    def __init__(self, rows: list[dict[str, Any]], order: list[int]) -> None:
        self.rows = [rows[number] for number in order]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.rows[number]

    def __iter__(self):
        return iter(self.rows)


def many_rows(pictures: int) -> list[dict[str, Any]]:
    """`pictures` of existence with two questions each, 3 of color, and one that MME-P does not ask about."""
    categories = ["existence"] * pictures + ["color"] * 3 + ["code_reasoning"]
    return [
        {"question_id": f"{number}.png", "question": question, "category": category}
        for number, category in enumerate(categories)
        for question in ("cat?", "dog?")
    ]


@pytest.mark.parametrize("limit", [2, 5, 9, 100, 0])
def test_the_part_is_of_items_and_not_of_places(limit: int) -> None:
    rows = many_rows(20)
    orders = [list(range(len(rows))), list(reversed(range(len(rows)))), [*range(1, len(rows)), 0]]
    parts = []
    for order in orders:
        shuffled = Shuffled(rows, order)
        numbers = fixed_part(MME, shuffled, limit)
        assert numbers == sorted(set(numbers))
        parts.append({(shuffled[n]["question_id"], shuffled[n]["question"]) for n in numbers})
    assert parts[0] == parts[1] == parts[2]
    counts = Counter(picture for picture, _ in parts[0])
    assert set(counts.values()) == {2}, "a picture's questions stay together"
    assert len(counts) == min(limit or 23, 23)
    categories = Counter(row["category"] for row in rows if row["question_id"] in counts)
    assert set(categories) == {"existence", "color"}
    assert categories["color"] == 2 * min(3, len(counts) // 2), "categories take turns"


def test_a_larger_part_holds_the_smaller_one() -> None:
    rows = Shuffled(many_rows(20), list(range(48)))
    parts = [set(fixed_part(MME, rows, limit)) for limit in (4, 8, 0)]
    assert parts[0] < parts[1] < parts[2]
    assert sorted(parts[0]) != list(range(8)), "it is drawn, not the first ones"


def test_a_part_that_leaves_categories_out_has_no_score() -> None:
    rows = Shuffled(many_rows(20), list(range(48)))
    with pytest.raises(ValueError, match="part of 1 scoring groups leaves out some of the 2 categories of mme"):
        fixed_part(MME, rows, 1)
    with pytest.raises(ValueError, match="lmms-lab-encoder/MME has no row that mme asks about|has no row that mme"):
        fixed_part(MME, Shuffled(many_rows(0)[-2:], [0, 1]), 0)


def parts_of(tasks: list[str], folder: Path, data_root: Path | None, ranks: Ranks | None = None, limit: int = 0):
    return BenchmarkParts(PartOptions(tasks, limit, folder, data_root), ranks)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of a few tokens."""
    for name in ("mme", "gqa", "mmvp", "vsibench"):
        monkeypatch.setitem(BENCHMARKS, name, dataclasses.replace(BENCHMARKS[name], max_new_tokens=LENGTH))


def test_the_scores_are_those_of_a_run(tiny, data_root: Path, tmp_path: Path, short: None) -> None:
    names = ["mme", "gqa", "mmvp", "vsibench"]
    parts = parts_of(["mme,gqa", "mmvp", "vsibench"], tmp_path / "parts", data_root)
    assert parts.problems == [] and parts.names == tuple(names)
    beats: list[str] = []
    scores = parts.scores(*tiny, 7, beats.append)
    assert evaluate(tiny, data_root, tmp_path / "run", names, protocols=("cambrian",)) == {}
    assert set(scores) == {f"{name}_{figure}" for name in names for figure in ("score", "low", "high")}
    for name, result in read_results(tmp_path / "run").items():
        name = name.split(".")[0]
        assert scores[f"{name}_score"] == result.column.value
        assert (scores[f"{name}_low"], scores[f"{name}_high"]) == result.column.interval()
        lines = [json.loads(line) for line in (tmp_path / "parts" / name / "step-7.jsonl").read_text().splitlines()]
        assert [(line["id"], line["answer"]) for line in lines] == [(one["id"], one["answer"]) for one in result.lines]
    assert {"a batch of mme", "a batch of vsibench"} <= set(beats)
    assert parts.questions == sum(len(result.lines) for result in read_results(tmp_path / "run").values())
    assert parts.try_out(*tiny) == []


def test_nothing_of_an_earlier_evaluation_is_reused(tiny, data_root: Path, tmp_path: Path, monkeypatch) -> None:
    parts = parts_of(["mme"], tmp_path, data_root)
    said = iter(["No", "Yes"])

    def answer(model, processor, questions, journal, options, progress, failed):
        text = next(said)
        assert not any(question.key in journal for question in questions)
        for question in questions:
            journal.append({"key": question.key, "id": question.id, "answer": text})

    monkeypatch.setattr("cambrian_gaze.evaluation.while_training.answer_questions", answer)
    first, second = (parts.scores(None, None, step, lambda what: None) for step in (1, 2))
    assert first["mme_score"] == second["mme_score"] == 100.0
    answers = [(tmp_path / "mme" / f"step-{step}.jsonl").read_text() for step in (1, 2)]
    assert all(text.count('"answer"') == 2 * parts.questions for text in answers)
    assert answers[1] == answers[0].replace('}, "answer": "No"}', '}, "answer": "Yes"}') != answers[0]


def test_all_that_is_wrong_is_said_at_once_in_a_line_each(data_root: Path, tmp_path: Path) -> None:
    tasks = ["mmme", "mme", "tempcompass_captioning", "no_such.yaml", "gqa", "mmvp"]
    root = tmp_path / "root"
    for dataset in ("lmms-lab/MME", "MMVP/MMVP"):
        (root / dataset).parent.mkdir(parents=True, exist_ok=True)
    (root / "lmms-lab" / "MME").symlink_to(data_root / "lmms-lab" / "MME")
    copy = root / "MMVP" / "MMVP"
    (copy / "MMVP Images").mkdir(parents=True)
    (copy / "Questions.csv").write_text((data_root / "MMVP" / "MMVP" / "Questions.csv").read_text())
    problems = parts_of(tasks, tmp_path / "out", root, limit=1).problems
    assert all("\n" not in problem for problem in problems)
    told = dict(problem.split(":", 1) for problem in problems if problem.split(":")[0] in BENCHMARKS)
    assert set(told) == {"mme", "tempcompass_captioning", "gqa", "mmvp"}
    assert "a part of 1 scoring groups leaves out some of the 2 categories" in told["mme"]
    assert "a judge model decides" in told["tempcompass_captioning"]
    assert "no local copy" in told["gqa"] and "hf download" in told["gqa"]
    assert "is missing" in told["mmvp"] and ".jpg" in told["mmvp"]
    assert any("unknown benchmark 'mmme'; did you mean 'mme'" in problem for problem in problems)
    assert any("no_such.yaml" in problem for problem in problems)
    [video] = parts_of(["mlvu"], tmp_path / "out", None).problems
    assert video.startswith("mlvu: its videos are read from a local copy only") and "eval_tasks_data_root" in video


def test_a_question_longer_than_the_positions_is_known_before(tiny, data_root: Path, tmp_path: Path) -> None:
    parts = parts_of(["mme", "gqa"], tmp_path, data_root)
    model, processor = tiny
    positions = model.config.text_config.max_position_embeddings
    try:
        model.config.text_config.max_position_embeddings = 40
        mme, gqa = parts.try_out(model, processor)
    finally:
        model.config.text_config.max_position_embeddings = positions
    assert mme.startswith("mme: existence/") and "40" in mme and gqa.startswith("gqa: ")


def test_a_question_that_cannot_be_asked_later_is_wrong_and_counted(
    tiny, data_root: Path, tmp_path: Path, short: None, caplog: pytest.LogCaptureFixture
) -> None:
    import shutil

    root = tmp_path / "root"
    shutil.copytree(data_root / "MMVP", root / "MMVP")
    parts = parts_of(["mmvp"], tmp_path / "out", root)
    assert parts.problems == []
    (root / "MMVP" / "MMVP" / "MMVP Images" / "1.jpg").unlink()
    scores = [parts.scores(*tiny, step, lambda what: None) for step in (1, 2)]
    assert [one["mmvp_missing"] for one in scores] == [1.0, 1.0]
    assert caplog.text.count("cannot be asked and counts as wrong") == 1


class TwoRanks:
    """Two threads in the place of two processes."""

    def __init__(self) -> None:
        self.barrier, self.told = threading.Barrier(2), {}

    def rank(self, number: int) -> Any:
        def gathered(one: Any) -> list[Any]:
            self.told[number] = one
            self.barrier.wait(20)
            both = [self.told[0], self.told[1]]
            self.barrier.wait(20)
            return both

        return SimpleNamespace(rank=number, world=2, first=number == 0, gathered=gathered)

    def run(self, call) -> list[Any]:
        found: list[Any] = [None, None]

        def one(number: int) -> None:
            try:
                found[number] = call(self.rank(number))
            except Exception as error:
                found[number] = error

        threads = [threading.Thread(target=one, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return found


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The ids that each process was asked; one answers "Yes" to all of them."""
    asked: list[set[str]] = []

    def answer(model, processor, questions, journal, options, progress, failed):
        if model == "fails" and any("color" in question.id for question in questions):
            raise RuntimeError("out of memory")
        asked.append({question.id for question in questions})
        for question in questions:
            journal.append({"key": question.key, "id": question.id, "answer": "Yes"})

    monkeypatch.setattr("cambrian_gaze.evaluation.while_training.answer_questions", answer)
    return asked


def test_processes_share_the_groups_and_have_one_score(data_root: Path, tmp_path: Path, shares) -> None:
    rows = BenchmarkRows(MME, data_root)
    ids = {sample.id for sample in read_samples(MME, "cambrian", rows)}

    def call(ranks: Any) -> dict[str, float]:
        return parts_of(["mme"], tmp_path, data_root, ranks).scores("answers", None, 3, lambda what: None)

    one, other = TwoRanks().run(call)
    assert one == other and one["mme_score"] == 100.0
    assert shares[0] | shares[1] == ids and not shares[0] & shares[1] and shares[0] and shares[1]
    pictures = [{name.split()[0] for name in share} for share in shares]
    assert not pictures[0] & pictures[1]
    assert len((tmp_path / "mme" / "step-3.jsonl").read_text().splitlines()) == len(ids)


def test_a_process_that_fails_keeps_nobody_waiting(data_root: Path, tmp_path: Path, shares) -> None:
    def call(ranks: Any) -> dict[str, float]:
        return parts_of(["mme"], tmp_path, data_root, ranks).scores("fails", None, 3, lambda what: None)

    errors = TwoRanks().run(call)
    assert [str(error) for error in errors] == ["mme: RuntimeError: out of memory"] * 2


def test_answering_changes_nothing_of_a_model_that_keeps_no_cache(
    tiny, data_root: Path, tmp_path: Path, short: None
) -> None:
    """`use_cache` is off in a model that trains."""
    model, processor = tiny
    parts = parts_of(["mme"], tmp_path, data_root, limit=2)
    usual = parts.scores(model, processor, 1, lambda what: None)
    model.config.use_cache = False
    try:
        before = [one.to_dict() for one in (model.config, model.generation_config, model.config.gaze_config)]
        assert parts.scores(model, processor, 2, lambda what: None) == usual
        after = [one.to_dict() for one in (model.config, model.generation_config, model.config.gaze_config)]
    finally:
        del model.config.use_cache
    assert before == after
    assert (tmp_path / "mme" / "step-1.jsonl").read_text() == (tmp_path / "mme" / "step-2.jsonl").read_text()


def test_where_it_is_to_stop_no_further_benchmark_is_begun(data_root: Path, tmp_path: Path, shares) -> None:
    """All processes ask at the same places."""
    asked: list[int] = []

    def call(ranks: Any) -> dict[str, float]:
        def stop() -> bool:
            told = any(ranks.gathered(ranks.rank == 1 and len(asked) >= 2))
            asked.append(ranks.rank)
            return told

        parts = parts_of(["mme", "mmvp"], tmp_path, data_root, ranks)
        return parts.scores("answers", None, 3, lambda what: None, stop)

    for scores in TwoRanks().run(call):
        assert {name.split("_")[0] for name in scores} == {"mme"}
    assert sorted(asked) == [0, 0, 1, 1]


def test_one_process_looks_through_all_rows(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cambrian_gaze.evaluation import while_training

    looked: list[str] = []
    original = while_training.sound_rows
    monkeypatch.setattr(while_training, "sound_rows", lambda one, root: looked.append(one.name) or original(one, root))
    one, other = TwoRanks().run(lambda ranks: parts_of(["mme", "gqa"], tmp_path, data_root, ranks, limit=2))
    assert looked == ["mme", "gqa"] and one.questions == other.questions > 0 and not one.problems + other.problems
    one, other = TwoRanks().run(lambda ranks: parts_of(["mme", "gqa"], tmp_path, data_root, ranks, limit=1))
    assert one.problems == other.problems and "leaves out some of the 2 categories" in one.problems[0]
