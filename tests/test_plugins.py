"""`--plugin`: a file that the user named, and nothing else; and what is recorded of it."""

import hashlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.plugins import check_plugin, load_plugins, loaded_plugins, needed, read_records, remedy, remember
from tests._plugins import GAZE, SOURCE, forgotten, write_plugin


@pytest.fixture(autouse=True)
def _unknown_afterwards() -> Iterator[None]:
    with forgotten():
        yield


def test_a_file_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a folder" / "mine, too.py"
    write_plugin(path, "import os\nos.environ['PLUGIN_RUNS'] += '1'\n")
    monkeypatch.setenv("PLUGIN_RUNS", "")
    assert len(load_plugins([str(path), str(path)])) == 1
    monkeypatch.chdir(path.parent)
    load_plugins(["mine, too.py"])
    assert os.environ["PLUGIN_RUNS"] == "1"
    assert not list(path.parent.glob("__pycache__"))


def refused(folder: Path) -> list[tuple[str, str]]:
    good = folder / "good.py"
    good.write_text("raise SystemError('was run')\n")
    (folder / "link.py").symlink_to(good)
    (folder / "folder.py").mkdir()
    (folder / "text.txt").write_text("x = 1\n")
    os.mkfifo(folder / "pipe.py")
    return [
        ("link.py", "is no regular file"),
        ("folder.py", "is no regular file"),
        ("pipe.py", "is no regular file"),
        ("text.txt", "does not end in .py"),
        ("none.py", "No such file"),
        ("json", "No such file"),
        ("https://example.org/x.py", "No such file"),
        ("", "No such file"),
    ]


def test_what_is_no_file_of_python_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, message in refused(tmp_path):
        with pytest.raises(ValueError, match=f"--plugin {name}.*{message}"):
            load_plugins([name])


BROKEN = {
    "raises": ("x = 1\nx / 0\n", r"line 2: ZeroDivisionError: division by zero"),
    "no Python": ("x = (\n", r"line 1: SyntaxError: "),
    "a zero byte": ("x = 1\0\n", r"line .*: SyntaxError: "),
    "ends the program": ("import sys\nsys.exit(0)\n", r"line 2: it ends the program"),
    "a module beside it": ("import beside_it\n", r"line 1: ModuleNotFoundError: .*PYTHONPATH"),
    "a name that is taken": (
        SOURCE.replace('"plugin_centre"', '"mean"'),
        r"line 25: ValueError: .*'mean'; taken: mean",
    ),
    "half of a descriptor": (
        "from cambrian_gaze.gaze.descriptors import RegionDescriptor, register_descriptor\n"
        "class Half(RegionDescriptor):\n    name = 'half'\nregister_descriptor(Half())\n",
        r"line 4: ValueError: descriptor 'half' has no method describe",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_fails_is_named_with_its_line(case: str, tmp_path: Path) -> None:
    source, message = BROKEN[case]
    path = write_plugin(tmp_path / "broken.py", source)
    before = set(sys.modules)
    with pytest.raises(ValueError, match=r"--plugin .*broken\.py, " + message):
        load_plugins([str(path)])
    assert not any(name.startswith("cambrian_gaze_plugin") for name in set(sys.modules) - before)
    assert not loaded_plugins()


def test_looking_at_a_plugin_does_not_run_it(tmp_path: Path) -> None:
    check_plugin(str(write_plugin(tmp_path / "it.py", "raise SystemError('was run')\n")))


def test_a_file_that_registers_nothing_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_plugin(tmp_path / "empty.py", "")
    with caplog.at_level(logging.WARNING):
        load_plugins([str(path)])
        load_plugins([str(path)])
    assert [record.getMessage() for record in caplog.records] == [
        f"--plugin {path} registers nothing: no descriptor, benchmark, attention backend, vision tower or policy"
    ]


def test_two_files_of_one_name(tmp_path: Path) -> None:
    first, second = (write_plugin(tmp_path / name) for name in ("first.py", "second.py"))
    with pytest.raises(ValueError, match=r"second\.py, line 25: .*'plugin_centre'.*this one is of --plugin first\.py"):
        load_plugins([str(first), str(second)])


def test_the_record_of_a_plugin(tmp_path: Path) -> None:
    path = write_plugin(tmp_path / "mine.py")
    (plugin,) = load_plugins([str(path)])
    assert plugin.to_dict() == {
        "file": "mine.py",
        "sha256": hashlib.sha256(SOURCE.encode()).hexdigest(),
        "registers": ["descriptor plugin_centre", "attention backend plugin_masked"],
    }
    assert read_records([plugin.to_dict()]) == [plugin]
    assert needed([("descriptor", "plugin_centre"), ("attention backend", "auto")]) == [plugin.to_dict()]
    assert needed([("descriptor", "mean"), ("policy", "plugin_centre")]) == []


HOSTILE = [None, {}, "text", [1], [{"file": 1}], [{"file": "a.py", "sha256": "0", "registers": [{}]}],
           [{"file": "a\x1b[2J.py", "sha256": "0", "registers": []}]]  # fmt: skip


@pytest.mark.parametrize("records", HOSTILE, ids=str)
def test_records_that_are_none(records: object) -> None:
    assert read_records(records) == []
    remember(records)


def test_a_model_names_the_plugin_that_it_was_made_with(tmp_path: Path) -> None:
    source, path = tmp_path / "model", write_plugin(tmp_path / "mine.py")
    with forgotten():
        (plugin,) = load_plugins([str(path)])
        CambrianGazeConfig.from_preset("tiny", gaze=GAZE).save_pretrained(source)
        assert CambrianGazeConfig.from_pretrained(source).plugins == [plugin.to_dict()]
    with pytest.raises(ValueError, match=r"'plugin_centre'; it was made with --plugin mine\.py \(SHA-256 "):
        CambrianGazeConfig.from_pretrained(source)
    with pytest.raises(ValueError, match="'elsewhere'; one of your own is registered first .--plugin FILE.py"):
        GazeConfig(descriptor="elsewhere")


def test_a_backend_that_is_not_there_keeps_its_record(tmp_path: Path) -> None:
    """A model can be loaded, written and run by another backend without the plugin; the record stays."""
    from cambrian_gaze.attention.registry import pick

    with forgotten():
        (plugin,) = load_plugins([str(write_plugin(tmp_path / "mine.py"))])
        CambrianGazeConfig.from_preset("tiny", gaze={"backend": "plugin_masked"}).save_pretrained(tmp_path / "model")
    config = CambrianGazeConfig.from_pretrained(tmp_path / "model")
    assert config.to_dict()["plugins"] == [plugin.to_dict()]
    with pytest.raises(ValueError, match=r"unknown attention backend 'plugin_masked'.*--plugin mine\.py"):
        pick(config.gaze_config, None, None)
    config.gaze["backend"] = "auto"
    assert "plugins" not in config.to_dict()


def test_another_file_than_the_recorded_one_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with forgotten():
        load_plugins([str(write_plugin(tmp_path / "mine.py"))])
        CambrianGazeConfig.from_preset("tiny", gaze=GAZE).save_pretrained(tmp_path / "model")
    load_plugins([str(write_plugin(tmp_path / "other.py", SOURCE + "\n# changed\n"))])
    with caplog.at_level(logging.WARNING):
        CambrianGazeConfig.from_pretrained(tmp_path / "model")
        CambrianGazeConfig.from_pretrained(tmp_path / "model")
    told = [record.getMessage() for record in caplog.records if "plugin" in record.getMessage()]
    assert len(told) == 2 and all("--plugin other.py" in text and "mine.py" in text for text in told), "one for each"


def test_a_record_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may name what it likes, even a file that is there."""
    path = write_plugin(tmp_path / "mine.py", "raise SystemError('was run')\n")
    monkeypatch.chdir(tmp_path)
    record = {"file": str(path), "sha256": "0" * 64, "registers": ["descriptor mean", "descriptor gone"]}
    CambrianGazeConfig.from_preset("tiny", plugins=[record])
    assert remedy("descriptor", "gone", "x").startswith("it was made with --plugin")
