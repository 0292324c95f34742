"""The key `plugin` of a run: a flag, a YAML file's, of one file or a list, read alike by all."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cambrian_gaze.training.config import config
from cambrian_gaze.training.config.flags import as_words, read_flags
from cambrian_gaze.training.config.layers import ConfigError
from cambrian_gaze.training.config.values import gather
from cambrian_gaze.training.launch import batch, launch
from tests._plugins import forgotten, write_plugin


@pytest.fixture(autouse=True)
def _unknown_afterwards() -> Iterator[None]:
    with forgotten():
        yield


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`a.py` and `b.py` in the working directory, `own.py` beside the YAML files."""
    for name in ("a.py", "b.py", "yaml/own.py"):
        write_plugin(tmp_path / name, "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plugins_of(files: Path, yaml: dict[str, object], *words: str) -> list[str] | None:
    (files / "yaml" / "run.yaml").write_text(json.dumps(yaml))
    return gather(["yaml/run.yaml", *words])[0].get("plugin")


def test_files_and_flags_are_added_up(files: Path) -> None:
    assert plugins_of(files, {}, "--plugin", "a.py") == ["a.py"]
    assert plugins_of(files, {}, "--plugin=a.py", "--seed", "1", "--plugin=b.py") == ["a.py", "b.py"]
    assert plugins_of(files, {}, "--plugin", "a.py", "b.py", "--plugin", "a.py") == ["a.py", "b.py"]
    assert plugins_of(files, {"plugin": "a.py"}) == ["a.py"]
    assert plugins_of(files, {"plugin": ["a.py", "b.py"]}) == ["a.py", "b.py"]
    assert plugins_of(files, {"plugin": "a.py"}, "--plugin", "b.py") == ["a.py", "b.py"]
    (files / "yaml" / "base.yaml").write_text("plugin: [a.py]\n")
    assert plugins_of(files, {"base": "base.yaml", "plugin": "b.py"}) == ["a.py", "b.py"]
    assert plugins_of(files, {"base": "base.yaml"}) == ["a.py"]


def test_null_drops_those_before(files: Path) -> None:
    (files / "yaml" / "base.yaml").write_text("plugin: [a.py]\n")
    assert plugins_of(files, {"base": "base.yaml", "plugin": None}) is None
    for word in ("--plugin=null", "--plugin=false", "--no_plugin"):
        assert plugins_of(files, {"plugin": "a.py"}, word) is None
    assert plugins_of(files, {"plugin": "a.py"}, "--plugin", "null", "--plugin", "b.py") == ["b.py"]


def test_a_path_of_a_yaml_file_may_lie_beside_it(files: Path) -> None:
    assert plugins_of(files, {"plugin": "own.py"}) == ["yaml/own.py"]
    assert plugins_of(files, {"plugin": ["a.py", "own.py"]}) == ["a.py", "yaml/own.py"]
    with pytest.raises(ConfigError, match="the command line: --plugin own.py: No such file"):
        plugins_of(files, {}, "--plugin", "own.py")


def test_words_of_flags_are_read_as_they_were(files: Path) -> None:
    for words in (["--plugin", "a b.py", "--plugin", "null", "--plugin=b.py"], ["--plugin", "a.py"]):
        flags = read_flags(words)
        assert read_flags(as_words(flags)) == flags


def test_what_is_wrong_is_said_with_its_place(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "bad.py").write_text("x = (\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: --plugin bad\.py, line 1: SyntaxError"):
        plugins_of(files, {"plugin": "bad.py"})
    with pytest.raises(ConfigError, match="--plugin needs the name of a Python file"):
        plugins_of(files, {}, "--plugin", "--seed", "1")
    with pytest.raises(ConfigError, match="-- has no meaning here"):
        plugins_of(files, {}, "--", "--plugin", "a.py")
    # Before any rank starts: in the launcher, and in what scripts/launch.sh asks.
    for command in (["--plugin", "none.py", "--nproc_per_node", "2"], ["--plugin", "yaml", "--nproc_per_node=2"]):
        assert launch.main(command) == 2
        assert batch.main([*command, "--ranks", "2"]) == 2
        said = capsys.readouterr().err
        assert said.count(f"--plugin {command[1]}") == 2, said


def test_a_run_loads_them(files: Path) -> None:
    write_plugin(files / "mine.py")
    run = config.load(["--preset", "tiny", "--output_dir", "out", "--use_cpu", "--plugin", "mine.py", "a.py"])
    assert [plugin.file for plugin in run.plugins] == ["mine.py", "a.py"]
    assert run.model.plugin == run.values["plugin"] == ["mine.py", "a.py"]
    (files / "raises.py").write_text("raise OSError('no')\n")
    with pytest.raises(ConfigError, match=r"the command line: --plugin raises\.py, line 1: OSError: no"):
        config.load(["--preset", "tiny", "--output_dir", "out", "--use_cpu", "--plugin", "raises.py"])
