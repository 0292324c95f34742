"""A table of spellings, which the launcher's preflight, the ranks, the plan and the training all read alike."""

import json
from pathlib import Path

import pytest

from cambrian_gaze.cli import plan as plan_command
from cambrian_gaze.training.config import config
from cambrian_gaze.training.config.flags import as_words, read_flags
from cambrian_gaze.training.config.layers import ConfigError
from cambrian_gaze.training.config.values import key_names, setting
from cambrian_gaze.training.estimate.plan import make_plan
from cambrian_gaze.training.launch import batch
from cambrian_gaze.training.launch.ranks import processes_wanted

ERROR = "error"
TINY = {"preset": "tiny"}


def written(folder: Path, files: dict[str, object], words: list[str]) -> list[str]:
    """The command line, its files written; `run.yaml` is the configuration. JSON is YAML."""
    for name, values in files.items():
        (folder / name).write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return [str(folder / "run.yaml"), *words]


def answer(read, *args) -> object:
    """What a reader says, `ERROR` where it refuses."""
    try:
        return read(*args)
    except (ConfigError, SystemExit):
        return ERROR
    except ValueError as error:
        assert "must be" in str(error), error
        return ERROR


def by_preflight(argv: list[str], capsys: pytest.CaptureFixture[str]) -> object:
    """As `scripts/launch.sh` calls it."""
    if batch.main([*argv, "--ranks", "1"]):
        return ERROR
    return int(capsys.readouterr().out.split()[0])


def by_plan_command(argv: list[str], folder: Path) -> object:
    figures = folder / "plan.json"
    if plan_command.main([*argv, "--gpus=1", "--json", str(figures), "--text-tokens=200", "--samples", "9"]):
        return ERROR
    return json.loads(figures.read_text())[0]["batch"]["global"]


BATCHES = {
    "default": ({}, [], 8),
    "underscores, apart": ({}, ["--global_batch_size", "48"], 48),
    "underscores, joined": ({}, ["--global_batch_size=48"], 48),
    "hyphens, apart": ({}, ["--global-batch-size", "48"], 48),
    "hyphens, joined": ({}, ["--global-batch-size=48"], 48),
    "both": ({}, ["--global-batch_size=48"], 48),
    "in a file": ({"global_batch_size": 48}, [], 48),
    "in a file, hyphens": ({"global-batch-size": 48}, [], 48),
    "in a file, quoted": ({"global_batch_size": "48"}, [], 48),
    "in a file, a list of one": ({"global_batch_size": [48]}, [], 48),
    "file and flag": ({"global_batch_size": 512}, ["--global-batch-size", "48"], 48),
    "flag twice": ({}, ["--global_batch_size", "512", "--global-batch-size=48"], 48),
    "flag twice, other order": ({}, ["--global-batch-size=512", "--seed=3", "--global_batch_size", "48"], 48),
    "taken back": ({"global_batch_size": 512}, ["--global_batch_size", "null"], 8),
    "taken back, hyphens": ({"global-batch-size": 512}, ["--global-batch-size=None"], 8),
    "taken back in a file": ({"base": "base.yaml", "global_batch_size": None}, [], 8),
    "base": ({"base": "base.yaml"}, [], 64),
    "base and file": ({"base": "base.yaml", "global-batch-size": 48}, [], 48),
    "the later base": ({"base": ["base.yaml", "other.yaml"]}, [], 32),
    "base and flag": ({"base": "base.yaml"}, ["--global-batch-size=48"], 48),
    "follows from the others": ({"per-device-train-batch-size": 4}, ["--gradient-accumulation-steps", "3"], 12),
    "another project's name": ({}, ["--per_gpu_train_batch_size", "6"], 6),
    "a list stands before": ({}, ["--dense-layers", "0", "1", "--global_batch_size", "48"], 48),
    "a negative number stands before": ({}, ["--max-steps", "-1", "--global_batch_size", "48"], 48),
    "a value like a flag stands before": ({}, ["--run_name=--global_batch_size=9", "--global_batch_size", "48"], 48),
    "negative": ({}, ["--global_batch_size", "-48"], ERROR),
    "zero": ({}, ["--global_batch_size=0"], ERROR),
    "a fraction": ({}, ["--global_batch_size", "48.0"], ERROR),
    "a fraction in a file": ({"global_batch_size": 48.0}, [], ERROR),
    "a word": ({}, ["--global_batch_size=many"], ERROR),
    "empty": ({}, ["--global_batch_size="], ERROR),
    "no value": ({}, ["--global_batch_size", "--seed", "3"], ERROR),
    "true in a file": ({"global_batch_size": True}, [], ERROR),
    "a list": ({}, ["--global_batch_size", "48", "64"], ERROR),
    "a second file": ({}, ["base.yaml", "--global_batch_size", "48"], ERROR),
    "unknown key": ({}, ["--global_batch", "48"], ERROR),
    "unknown key in a file": ({"global_batchsize": 48}, [], ERROR),
    "unknown key in a base": ({"base": "wrong.yaml"}, [], ERROR),
    "one key in two spellings": ('{"preset": "tiny", "global_batch_size": 4, "global-batch-size": 4}', [], ERROR),
    "no such base": ({"base": "none.yaml"}, [], ERROR),
    "never taken": ({}, ["--label_smoothing_factor", "0.1"], ERROR),
}


@pytest.mark.parametrize("case", BATCHES)
def test_the_batch(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, words, expected = BATCHES[case]
    files = {"run.yaml": own if isinstance(own, str) else {**TINY, **own}}
    files |= {"base.yaml": {"global_batch_size": 64}, "other.yaml": {"global-batch-size": 32}}
    files |= {"wrong.yaml": {"global_batchsize": 64}}
    argv = written(tmp_path, files, words)
    here = [*argv, "--use_cpu", f"--output-dir={tmp_path}"]
    assert by_preflight(argv, capsys) == expected
    assert answer(lambda: config.load(here).training.global_batch_size) == expected
    if case != "a second file":  # The plan takes several.
        assert answer(by_plan_command, argv, tmp_path) == expected


RANKS = {
    "default": ({}, [], 1),
    "file": ({"nproc-per-node": 4}, [], 4),
    "file and flag": ({"nproc_per_node": 4}, ["--nproc-per-node", "2"], 2),
    "Accelerate's name": ({"num_processes": 4}, ["--num-processes=2"], 2),
    "both names": ({}, ["--num_processes", "2", "--nproc_per_node=3"], 3),
    "taken back": ({"nproc_per_node": 4}, ["--nproc_per_node=null"], 1),
    "fraction": ({"nproc_per_node": 2.0}, [], ERROR),
    "word": ({}, ["--nproc_per_node", "two"], ERROR),
    "unknown key": ({}, ["--nproc", "2"], ERROR),
}


@pytest.mark.parametrize("case", RANKS)
def test_the_ranks(case: str, tmp_path: Path) -> None:
    own, words, expected = RANKS[case]
    argv = written(tmp_path, {"run.yaml": {**TINY, **own}}, words)
    here = [*argv, "--use_cpu", f"--output-dir={tmp_path}"]
    assert answer(processes_wanted, argv) == expected
    assert answer(lambda: config.load(here).training.nproc_per_node) == expected


TRUE = [True, "true", "True", "yes", "on", "t", "y", "1", 1]
FALSE = [False, "false", "False", "no", "off", "f", "n", "0", 0]


@pytest.mark.parametrize("value", [*TRUE, *FALSE], ids=repr)
def test_booleans(value: object, tmp_path: Path) -> None:
    """In a file and as flags, of a field that is false by default and of one that is true; also where a plan, a key
    that only one value is taken of, or a key of another project asks."""
    wanted = str(value) in map(str, TRUE)
    keys = ("packing", "auto_resume", "freeze_backbone")
    in_file = written(tmp_path, {"run.yaml": {**TINY, **dict.fromkeys(keys, value)}}, [])
    as_flags = written(tmp_path / "..", {}, [f"--{key}={value}" for key in keys])[1:]
    for argv in (in_file, as_flags):
        run = config.load([*argv, "--use_cpu", f"--output_dir={tmp_path}"])
        assert (run.data.packing, run.training.auto_resume, run.model.freeze_backbone) == (wanted,) * 3
    plans = [
        make_plan(["--preset=tiny", f"--bf16={word}"], 1, "h100", 0.5, text_tokens=200).memory
        for word in (value, str(wanted).lower())
    ]
    assert plans[0] == plans[1]
    assert (answer(setting, "seed", ["--push_to_hub", str(value)]) == ERROR) == wanted
    assert (answer(setting, "seed", ["--mm_use_im_start_end", str(value)]) == ERROR) == wanted


def test_bare_and_negated_flags(tmp_path: Path) -> None:
    here = ["--use_cpu", f"--output_dir={tmp_path}"]
    run = config.load([*here, "--packing", "--no-auto-resume", "--no_progressive", "--no_cuda", "--progressive"])
    assert (run.data.packing, run.training.auto_resume, run.gaze.progressive) == (True, False, True)
    for words in (["--no_deepspeed"], ["--deepspeed", "False"], ["--deepspeed=null"], ["--deepspeed="]):
        argv = written(tmp_path, {"run.yaml": {"deepspeed": "zero2.json"}}, words)
        assert not setting("deepspeed", argv)
        assert not config.load([*argv, *here]).training.deepspeed


def test_values_that_begin_like_flags(tmp_path: Path) -> None:
    argv = written(tmp_path, {"run.yaml": {"exclude": ["--a", "-b"], "run_name": "--x", "dense_layers": [-1]}}, [])
    run = config.load([*argv, "--use_cpu", f"--output_dir={tmp_path}", "--tokenizer_name_or_path=--t"])
    assert (run.data.exclude, run.training.run_name, run.gaze.dense_layers) == (["--a", "-b"], "--x", [-1])
    assert run.model.tokenizer_name_or_path == "--t"
    flags = read_flags(["--exclude=--a", "b", "--seed", "-1", "--use_cpu", "--top_k=null", "--no_bf16"])
    assert flags == {"exclude": ["--a", "b"], "seed": "-1", "use_cpu": True, "top_k": None, "bf16": False}
    assert read_flags(as_words(flags)) == {**flags, "use_cpu": "True", "bf16": "False"}


def test_the_launcher_knows_every_key() -> None:
    """It reads them off the source, since it does not import torch."""
    assert key_names() == set(config.known_keys())
