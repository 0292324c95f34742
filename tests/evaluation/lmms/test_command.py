"""lmms-eval itself, in a process of its own, offline: its scores on our tasks are those of our own runner."""

import json
import shutil
import sys

import pytest

from cambrian_gaze.evaluation.benchmarks import PROTOCOLS, find
from cambrian_gaze.evaluation.results import read_results
from tests.evaluation._runs import LENGTH, evaluate
from tests.evaluation.lmms._asked import NEEDS_LMMS, TASKS, lmms_eval, results, run, write_foreign_task

pytestmark = [pytest.mark.slow, NEEDS_LMMS]
NAMES = ("mme", "mmmu_val", "gqa", "mmvp", "videomme", "vsibench")


def task_of(benchmark: str, protocol: str) -> str:
    return f"cambrian_gaze_{benchmark}{'' if protocol == 'cambrian' else '_official'}"


def command(model, output, options):
    given = {"--model": model, "--output": output, "--device": "cpu", **options}
    words = [str(word) for option in given.items() for word in option]
    return [sys.executable, "-m", "cambrian_gaze.cli.main", "eval", "lmms", *words]


def test_scores_and_answers_are_those_of_the_own_runner(tiny, model_folder, data_root, tmp_path):
    own = tmp_path / "own"
    assert evaluate(tiny, data_root, own, NAMES, gaze={"top_k": 2}) == {}
    tasks = [task_of(one.name, p) for one in find(NAMES) for p in PROTOCOLS if not (one.video and p == "official")]
    options = {
        "--tasks": ",".join(tasks), "--gaze": "top_k=2", "--max_new_tokens": LENGTH, "--batch_size": 8,
        "--data_root": data_root,
    }  # fmt: skip
    done = run(command(model_folder, tmp_path, options), tmp_path, data_root)
    assert done.returncode == 0, done.stdout
    assert "KV entries attended per query, head and layer, counted: " in done.stdout
    written = results(tmp_path)
    for name, result in read_results(own).items():
        task = task_of(*name.split("."))
        if task not in tasks:
            continue
        assert written["results"][task]["score,none"] == pytest.approx(result.column.value), task
        assert written["results"][task]["missing,none"] == 0
        (samples,) = tmp_path.rglob(f"*_samples_{task}.jsonl")
        lines = [json.loads(line) for line in samples.read_text().splitlines()]
        answers = {line["doc_id"]: line["filtered_resps"] for line in lines}
        assert [answers[place] for place in sorted(answers)] == [line["answer"] for line in result.lines], task


def test_two_processes_a_limit_that_cuts_a_group_and_a_task_of_another(model_folder, data_root, tmp_path):
    folder = write_foreign_task(tmp_path / "tasks")
    shutil.copy(TASKS / "cambrian_gaze_mme.yaml", folder)
    tasks, options = "cambrian_gaze_mme,local_counting", ("--limit", "3", "--include_path", str(folder))
    text, written = lmms_eval(model_folder, data_root, tmp_path, tasks, *options, processes=2)
    assert written is not None, text
    assert written["results"]["cambrian_gaze_mme"]["missing,none"] == 1  # two pictures were reached, of four questions
    assert 0 <= written["results"]["local_counting"]["exact_match,none"] <= 1
    journal = [path.read_text().splitlines() for path in sorted((tmp_path / "journal" / "journal").glob("*.jsonl"))]
    assert len(journal) == 2 and sum(map(len, journal)) == 6 and all(journal)


def test_failure_is_an_exit_status(model_folder, data_root, tmp_path):
    options = {"--tasks": "cambrian_gaze_mme", "--data_root": tmp_path}
    done = run(command(model_folder, tmp_path, options), tmp_path, data_root)
    assert done.returncode == 1
    assert "lmms-eval failed (no results of cambrian_gaze_mme)" in done.stdout
    assert "there is no local copy of lmms-lab-encoder/MME" in done.stdout
