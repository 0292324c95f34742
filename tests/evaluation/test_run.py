"""Runs: batches and shards change nothing, failures stay where they are, nothing stale is served."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from cambrian_gaze.evaluation.benchmarks import BENCHMARKS, PROTOCOLS
from cambrian_gaze.evaluation.benchmarks.rows import BenchmarkRows
from cambrian_gaze.evaluation.ranks import Ranks
from cambrian_gaze.evaluation.results import journal_path, read_results
from cambrian_gaze.evaluation.run import RunOptions, run
from cambrian_gaze.evaluation.samples import first_groups, read_samples, shard
from tests.evaluation._runs import evaluate


def answers(output: Path) -> dict[str, bytes]:
    """The answers files of a run."""
    read_results(output)
    return {path.name: path.read_bytes() for path in sorted((output / "answers").iterdir())}


def test_batch_of_one_answers_like_a_batch_of_eight(tiny, data_root: Path, whole_run: Path, tmp_path: Path) -> None:
    assert tiny[1].tokenizer.padding_side == "left"
    one_by_one = {"gaze": {"top_k": 2}, "batch_size": 1}
    assert evaluate(tiny, data_root, tmp_path, ["image", "video", "video_extra", "gazebench"], **one_by_one) == {}
    alone, together = answers(tmp_path), answers(whole_run)
    assert set(alone) == {f"{name}.{protocol}.jsonl" for name in BENCHMARKS for protocol in PROTOCOLS}
    assert all(alone[name] == together[name] for name in alone)


def test_answers_are_counted_against_the_cost_model(whole_run: Path) -> None:
    results = read_results(whole_run)
    assert results["gqa.cambrian"].attended() == {"visual": 8.0, "context": 4.0, "of": 64.0}
    assert results["mlvu.cambrian"].attended() == {"visual": 8.0, "context": 8.0, "of": 128.0}


def test_prompts_that_are_alike_are_answered_once(whole_run: Path) -> None:
    results = read_results(whole_run)
    samples = [s["key"] for result in results.values() for s in result.task["samples"]]
    lines = journal_path(whole_run, 0).read_text().splitlines()
    assert len(lines) == len(set(samples)) < len(samples)
    keys = {name: [s["key"] for s in results[name].task["samples"]] for name in results}
    assert keys["gqa.cambrian"] == keys["gqa.official"]
    assert not set(keys["ocrbench.cambrian"]) & set(keys["ocrbench.official"])


@pytest.mark.parametrize("world", [2, 3])
def test_shards_keep_groups_whole_and_lose_nothing(world: int, data_root: Path) -> None:
    for name in ("mme", "mmbench_en", "mmvp", "gqa"):
        samples = read_samples(BENCHMARKS[name], "official", BenchmarkRows(BENCHMARKS[name], data_root))
        parts = [shard(samples, rank, world) for rank in range(world)]
        assert sorted(s.id for part in parts for s in part) == sorted(s.id for s in samples)
        groups = [{s.group for s in part} for part in parts]
        assert sum(map(len, groups)) == len(set.union(*groups)) == len({s.group for s in samples})
        limited = first_groups(samples, 1)
        assert {s.group for s in limited} == {samples[0].group}
        assert len(limited) == sum(s.group == samples[0].group for s in samples)


def test_a_limited_run_is_incomplete(tiny, data_root: Path, tmp_path: Path) -> None:
    evaluate(tiny, data_root, tmp_path, ["mme"], limit=2, protocols=["official"])
    result = read_results(tmp_path)["mme.official"]
    assert len(result.lines) == 4 and "limited to 4 of 6 samples" in result.status


def test_weights_changed_in_place_are_answered_anew(tiny, data_root: Path, tmp_path: Path) -> None:
    def count() -> int:
        evaluate(tiny, data_root, tmp_path, ["mmvp"], protocols=["official"])
        return len(journal_path(tmp_path, 0).read_text().splitlines())

    weight = next(tiny[0].parameters())
    assert (count(), count()) == (6, 6)
    before = answers(tmp_path)
    with torch.no_grad():
        kept = weight.clone()
        weight.normal_()
    try:
        assert count() == 12
        assert answers(tmp_path) != before
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert count() == 12 and answers(tmp_path) == before


def test_other_settings_are_other_answers(tiny, data_root: Path, tmp_path: Path) -> None:
    for number, changes in enumerate(({}, {"gaze": {"top_k": 1}}, {"max_new_tokens": 4}), start=1):
        evaluate(tiny, data_root, tmp_path, ["mmvp"], protocols=["official"], **changes)
        assert len(journal_path(tmp_path, 0).read_text().splitlines()) == 6 * number


def test_a_failing_task_leaves_the_others(tiny, data_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("MMVP/MMVP", "lmms-lab/MME", "lmms-lab/GQA"):
        shutil.copytree(data_root / name, root / name)
    (root / "MMVP" / "MMVP" / "MMVP Images" / "2.jpg").write_bytes(b"junk")
    shutil.rmtree(root / "lmms-lab" / "MME")
    errors = evaluate(tiny, root, tmp_path / "run", ["mme", "mmvp", "gqa"], protocols=["cambrian"])
    assert set(errors) == {"mme.cambrian", "mmvp.cambrian"}
    assert "no local copy" in errors["mme.cambrian"] and "2.jpg" in errors["mmvp.cambrian"]
    results = read_results(tmp_path / "run")
    assert results["mme.cambrian"].status.startswith("FAILED") and results["mme.cambrian"].column is None
    assert results["mmvp.cambrian"].status.startswith("FAILED")
    assert all(line["answer"] is not None for line in results["gqa.cambrian"].lines)


def test_schema_errors_come_before_the_weights(data_root: Path, tmp_path: Path) -> None:
    def load(device: str) -> None:
        pytest.fail("the weights were loaded")

    options = RunOptions([BENCHMARKS["mme"]], ["cambrian"], "tiny", data_root=tmp_path)
    assert set(run(options, tmp_path / "run", load)) == {"mme.cambrian"}


def test_answers_of_any_number_of_processes_count(tiny, data_root: Path, tmp_path: Path, monkeypatch) -> None:
    """Two ranks one after the other, then one process alone: it finds everything answered."""
    monkeypatch.setattr(Ranks, "wait", lambda self: None)
    monkeypatch.setattr(Ranks, "merged", lambda self, errors: errors)
    options = RunOptions([BENCHMARKS["mme"]], ["official"], "tiny", data_root=data_root, max_new_tokens=8)
    for rank in (1, 0):
        assert run(options, tmp_path, lambda device: tiny, Ranks(rank, 2)) == {}
    counts = [len(journal_path(tmp_path, rank).read_text().splitlines()) for rank in (0, 1)]
    assert counts == [4, 2]
    with monkeypatch.context() as patch:
        patch.setattr(tiny[0], "generate", lambda **kwargs: pytest.fail("generated again"))
        assert run(options, tmp_path, lambda device: tiny) == {}
    assert all(line["answer"] is not None for line in read_results(tmp_path)["mme.official"].lines)


def test_two_runs_do_not_write_one_journal(tiny, data_root: Path, tmp_path: Path) -> None:
    import fcntl

    path = journal_path(tmp_path, 0).with_suffix(".lock")
    path.parent.mkdir(parents=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process writes"):
            evaluate(tiny, data_root, tmp_path, ["mmvp"])


def test_missing_answers_are_wrong_and_counted(whole_run: Path, tmp_path: Path) -> None:
    output = shutil.copytree(whole_run, tmp_path / "run")
    journal = journal_path(output, 0)
    first = read_results(output)["mme.official"].task["samples"][0]["key"]
    lines = [line for line in journal.read_text().splitlines() if json.loads(line)["key"] != first]
    journal.write_text("".join(line + "\n" for line in lines))
    result = read_results(output)["mme.official"]
    assert result.column.missing == 1 and result.column.samples == 6
    assert "1 of 6 answers missing" in result.status and not result.complete


def test_counts_that_differ_from_the_cost_model_are_an_error(whole_run: Path, tmp_path: Path) -> None:
    output = shutil.copytree(whole_run, tmp_path / "run")
    journal = journal_path(output, 0)
    journal.write_text(journal.read_text().replace('"visual": 8.0, "context": 4.0', '"visual": 9.0, "context": 4.0'))
    with pytest.raises(RuntimeError, match=r"counted 9\+4 KV entries, but the cost model says 8\+4"):
        read_results(output)["gqa.cambrian"].attended()


def test_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run"):
        read_results(tmp_path)
