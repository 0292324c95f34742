"""`--plugin` of every command that loads a model, a backend, a policy or a benchmark; and why others have none."""

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cambrian_gaze.cli.main import COMMANDS, main
from tests._plugins import GAZE, SOURCE, forgotten, write_plugin

MODEL = ("--model", "nowhere")
WITH = {
    "init": ("--llm", "nowhere", "--vision", "nowhere", "--out", "out"),
    "convert from-cambrian": ("nowhere", "--out", "out"),
    "convert to-cambrian": ("nowhere", "--out", "out"),
    "merge": (*MODEL, "--adapter", "nowhere", "--out", "out"),
    "generate": (*MODEL, "--prompt", "What?"),
    "chat": MODEL,
    "demo": MODEL,
    "answer": (*MODEL, "--data_path", "nowhere.jsonl", "--output", "out.jsonl"),
    "eval run": (*MODEL, "--tasks", "mme", "--output", "out"),
    "eval score": ("nowhere",),
    "eval doctor": ("--tasks", "mme"),
    "eval table": ("eval/tables/table1.yaml", "--row", "nothing"),
    "eval cost": (*MODEL, "--output", "out"),
    "eval routing": (*MODEL, "--data", "nowhere", "--output", "out"),
    "eval lmms": (*MODEL, "--tasks", "mme", "--output", "out"),
    "study run": ("nothing",),
    "export": (*MODEL, "--format", "bf16", "--out", "out"),
    "push": ("nowhere", "--repo", "me/it"),
    "serve": MODEL,
    "bench attention": ("--quick",),
    "bench decode": ("--quick",),
}
"""Command → the arguments that it needs."""
BY_KEY = {"train": (), "plan": (), "reproduce": ()}
"""Commands that take every key of a run, and `plugin` is one: see tests/training/config/test_plugin.py."""
WITHOUT = {
    "quickstart": "trains and answers its own models",
    "gaze": "a trace holds all that is shown",
    "data": "of a model the processor alone is read",
    "gazebench": "no model",
    "cost": "counts of the cost model",
    "checkpoint": "files are copied and compared",
    "report": "the files of a run",
}


@pytest.fixture(autouse=True)
def _unknown_afterwards() -> Iterator[None]:
    with forgotten():
        yield


def run(*words: str | Path) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([*map(str, words)])
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


def test_every_command_is_decided_on() -> None:
    assert {name.split()[0] for name in WITH} | {*BY_KEY, *WITHOUT} == set(COMMANDS)
    for name in WITHOUT:
        assert "--plugin" not in run(name, "--help")[1]


@pytest.mark.parametrize("command", WITH)
def test_a_plugin_that_fails_ends_the_command_before_anything_else(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the command takes the option, and does load it."""
    path = write_plugin(tmp_path / "a folder" / "mine.py", "x = 1\nraise OSError('no')\n")
    monkeypatch.chdir(tmp_path)
    words = command.split()
    code, out, err = run(*words, *WITH[command], "--plugin", path)
    assert code in (1, 2) and out == ""
    (line,) = [line for line in err.splitlines() if "--plugin" in line and not line.startswith(("usage", " "))]
    assert line.startswith(f"cambrian-gaze {words[0]}")
    assert line.endswith(f"--plugin {path}, line 2: OSError: no")
    # After `--` there are no options: argparse says so, or takes it for a name and finds nothing there.
    code, out, err = run(*words, *WITH[command], "--", "--plugin", path)
    assert code in (1, 2) and "--plugin" in err and "OSError" not in err


def test_what_is_no_plugin_ends_an_evaluation_before_its_processes_start(tmp_path: Path) -> None:
    path = write_plugin(tmp_path / "mine.py", "x = (\n")
    code, _, err = run("eval", "run", *WITH["eval run"], "--num_processes", "2", "--plugin", path)
    assert code == 1 and err.startswith(f"cambrian-gaze eval run: --plugin {path}, line 1: SyntaxError")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model that was made with a plugin, which is unknown now."""
    from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
    from cambrian_gaze.plugins import load_plugins

    plugin, folder = write_plugin(tmp_path / "mine.py"), tmp_path / "model"
    with forgotten():
        load_plugins([str(plugin)])
        CambrianGazeForConditionalGeneration.from_preset("tiny", gaze=GAZE).save_pretrained(folder)
        CambrianGazeProcessor.from_preset("tiny").save_pretrained(folder)
    return folder


def test_a_model_answers_with_its_plugin_alone(model: Path, page: Path, tmp_path: Path) -> None:
    plugin, trace = tmp_path / "mine.py", tmp_path / "trace.safetensors"
    words = ("generate", "--model", model, "--image", page, "--prompt", "What?", "--top_k", "2")
    words = (*words, "--max_new_tokens", "2", "--device", "cpu", "--trace_file", trace)
    code, _, err = run(*words)
    assert code == 2 and "'plugin_centre'; it was made with --plugin mine.py (SHA-256 " in err
    code, _, err = run(*words, "--plugin", plugin)
    assert code == 0, err
    with forgotten():
        assert run("gaze", "view", trace)[0] == 0, "a trace needs no plugin"


def test_weights_are_written_with_the_plugin_and_keep_its_record(model: Path, tmp_path: Path) -> None:
    words = ("export", "--model", model, "--format", "bf16", "--out", tmp_path / "half")
    code, _, err = run(*words)
    assert code == 1 and "it was made with --plugin mine.py" in err
    code, _, err = run(*words, "--plugin", tmp_path / "mine.py")
    assert code == 0, err
    configs = [json.loads((folder / "config.json").read_text()) for folder in (model, tmp_path / "half")]
    assert configs[0]["plugins"] == configs[1]["plugins"] and len(configs[0]["plugins"]) == 1


def test_a_backend_of_a_plugin_is_an_arm_of_the_bench(tmp_path: Path) -> None:
    plugin, rows = write_plugin(tmp_path / "mine.py"), tmp_path / "rows.json"
    words = ("bench", "attention", "--quick", "--device", "cpu", "--json", rows)
    words = (*words, "--arms", "masked", "plugin_masked", "--text", "16", "--visual", "576", "--repeats", "1")
    words = (*words, "--heads", "1", "--kv_heads", "1", "--head_dim", "16")
    code, _, err = run(*words)
    assert code == 2 and "unknown arms: plugin_masked" in err
    code, out, err = run(*words, "--plugin", plugin)
    assert code == 0, err
    assert "plugin_masked" in out
    arms = {row["arm"] for one in json.loads(rows.read_text())["runs"] for row in one["rows"]}
    assert {"masked", "plugin_masked"} <= arms


def test_a_study_trains_with_the_plugins_in_a_folder_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cambrian_gaze.studies import run as studies

    asked = []

    def stop(study, size, runs, results, seeds):
        asked.append((size, runs, results))
        raise ValueError("far enough")

    monkeypatch.setattr(studies, "run_study", stop)
    monkeypatch.chdir(tmp_path)
    for source in (SOURCE, SOURCE + "# changed\n"):
        with forgotten():
            write_plugin(tmp_path / "mine.py", source)
            words = ("study", "run", "budget", "--size", "smoke", "--output_dir", tmp_path / "runs")
            assert run(*words, "--plugin", "mine.py")[0] == 1
    assert run(*words)[0] == 1
    (first, runs, results), (_, changed, _), (plain, own, _) = asked
    assert first.training["plugin"] == [str(tmp_path / "mine.py")] and "plugin" not in plain.training
    assert own == results == tmp_path / "runs" and len({runs, changed, own}) == 3
    assert runs.parent == changed.parent == own


def test_lmms_eval_is_told_of_plugins_and_policy(tmp_path: Path) -> None:
    from cambrian_gaze.cli.eval.lmms import command
    from cambrian_gaze.cli.eval.parser import build_parser

    def model_args(*words: str) -> dict[str, str]:
        arguments = build_parser("lmms").parse_args(["--model", "m", "--tasks", "t", "--output", "o", *words])
        given = command(arguments, tmp_path, {"top_k": 2})
        return dict(pair.split("=") for pair in given[given.index("--model_args") + 1].split(","))

    plugins = [write_plugin(tmp_path / name, "") for name in ("a.py", "b.py")]
    told = model_args("--plugin", str(plugins[0]), "--plugin", str(plugins[1]), "--policy", "recent", "budget=8")
    assert told["plugin"] == f"{plugins[0]}:{plugins[1]}"
    assert (told["policy"], told["budget"], told["top_k"]) == ("recent", "8", "2")
    assert not {"plugin", "policy"} & model_args().keys()
    with pytest.raises(ValueError, match="lmms-eval takes no path with"):
        model_args("--plugin", "a,b.py")
    with pytest.raises(ValueError, match="unknown policy 'recen'; did you mean 'recent'"):
        model_args("--policy", "recen")


def test_a_reproduction_hands_plugins_to_training_plan_and_evaluation() -> None:
    from cambrian_gaze.reproduce.commands import Options, plan_words, steps
    from cambrian_gaze.reproduce.rows import find_chain

    chain = find_chain("table1", "Cambrian-4B + Gaze 72+4")
    options = Options(flags=("--plugin", "a.py", "--plugin", "b.py"))
    found = [step.words for step in steps(chain, options)]
    for words in (*found, plan_words(chain, options)):
        assert [words[n + 1] for n, word in enumerate(words) if word == "--plugin"] == ["a.py", "b.py"]
