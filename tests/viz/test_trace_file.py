"""The file of a trace: what is written comes back, an old one is read for good, anything else is one line of text."""

import dataclasses
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cambrian_gaze.viz.trace import ALL, NONE, Trace
from cambrian_gaze.viz.trace_file import FORMAT, TraceError
from tests.viz._traces import make_trace, noise, with_weights

OLD = Path(__file__).parent / "data" / "trace_v1.safetensors"


def same(a: Trace, b: Trace) -> None:
    for field in dataclasses.fields(Trace):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other, err_msg=field.name)
        elif field.name != "made_by":
            assert one == other, field.name


@pytest.mark.parametrize("probabilities", [True, False])
@pytest.mark.parametrize("weights", [True, False])
def test_what_is_saved_comes_back(tmp_path: Path, probabilities: bool, weights: bool) -> None:
    trace = make_trace([[noise(40, 30)], [noise(32, 20, seed) for seed in range(3)]], aspect="pad")
    trace.regions[0, 0, 0] = [ALL, NONE]
    trace.prompt = 'Ümläute, "quotes", </script>\n'
    trace.kept = np.random.default_rng(0).random((2, trace.num_visual), dtype=np.float32)
    trace.steering = {"hidden": [1, 2], "forced": []}
    if weights:
        with_weights(trace)
    if not probabilities:
        trace.logprobs = trace.top_ids = trace.top_logprobs = None
        trace.top_tokens = []
    loaded = Trace.load(trace.save(tmp_path / "new" / "x.safetensors"))
    same(trace, loaded)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.safetensors"]
    np.testing.assert_array_equal(np.asarray(loaded.items[1].picture(2)), np.asarray(noise(32, 20, 2)))


def test_an_old_trace_is_read_as_on_the_day_it_was_written() -> None:
    """The file was written by `generate --trace_file` of version 0.1.0 and is never written again."""
    trace = Trace.load(OLD)
    expected = json.loads(OLD.with_suffix(".json").read_text())
    assert trace.made_by == "cambrian-gaze 0.1.0"
    assert trace.answer == expected["answer"] and trace.tokens == expected["tokens"]
    assert trace.regions.tolist() == expected["regions"]
    assert trace.pixels == [tuple(place) for place in expected["pixels"]]
    assert trace.items[0].picture().size == tuple(expected["size"])
    assert trace.kept is None and trace.steering == {}
    np.testing.assert_allclose(trace.logprobs, expected["logprobs"], rtol=1e-6)


def test_a_trace_of_version_2_is_read_as_on_the_day_it_was_written() -> None:
    """Written by the last code of version 2: an answer under a policy, with a region hidden."""
    trace, expected = Trace.load(OLD.with_name("trace_v2.safetensors")), told_of("trace_v2")
    assert trace.answer == expected["answer"] and trace.regions.tolist() == expected["regions"]
    assert trace.steering == expected["steering"] == {"hidden": [1], "forced": []}
    np.testing.assert_allclose(trace.kept.sum(1), expected["kept"])
    assert trace.heat(0) is None and trace.mass(0, 0, 0) is None and trace.role_mass is None
    assert "attention" in trace.missing


def test_a_trace_of_version_3_is_read_as_on_the_day_it_was_written() -> None:
    """Written by the first code of version 3."""
    trace, expected = Trace.load(OLD.with_name("trace_v3.safetensors")), told_of("trace_v3")
    assert trace.answer == expected["answer"] and trace.regions.tolist() == expected["regions"]
    for token, heat in enumerate(expected["heat"]):
        np.testing.assert_allclose(trace.heat(token), heat, rtol=1e-6)
    np.testing.assert_allclose(trace.mass(0, 0, 0), expected["mass"], rtol=1e-6)
    np.testing.assert_allclose(trace.role_mass, expected["role_mass"], atol=1e-4)
    assert "attention" not in trace.missing


def told_of(name: str) -> dict:
    return json.loads(OLD.with_name(f"{name}.json").read_text())


def test_neither_torch_nor_transformers_is_needed_to_read() -> None:
    code = (
        "import sys; from cambrian_gaze.viz.trace import Trace; from cambrian_gaze.viz.viewer import viewer_page; "
        f"viewer_page(Trace.load({str(OLD)!r})); print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert told.stdout.strip() == "[]", told.stderr


class Bomb:
    def __reduce__(self):
        return (print, ("unpickled",))


def rewritten(change: Callable[[dict, dict, dict], None]) -> Callable[[Path], None]:
    """Writes the old file after `change(arrays, metadata, facts)`."""

    def write(path: Path) -> None:
        from safetensors import safe_open

        with safe_open(str(OLD), "numpy") as opened:
            metadata = dict(opened.metadata())
        arrays, facts = load_file(OLD), json.loads(metadata["trace"])
        change(arrays, metadata, facts)
        if "trace" in metadata:
            metadata["trace"] = json.dumps(facts)
        save_file(arrays, path, metadata)

    return write


def put(array: str, value: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return rewritten(lambda arrays, metadata, facts: arrays.update({array: value(arrays[array])}))


def tell(**values: object) -> Callable[[Path], None]:
    return rewritten(lambda arrays, metadata, facts: facts.update(values))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "no gaze trace, or a damaged one"),
        (lambda path: path.write_bytes(pickle.dumps(Bomb())), "no gaze trace, or a damaged one"),
        (lambda path: path.write_bytes(OLD.read_bytes()[:-100]), "no gaze trace, or a damaged one"),
        (lambda path: save_file({"x": np.zeros(2)}, path), "is a safetensors file, but no gaze trace"),
        (rewritten(lambda a, m, f: m.update(version="4")), "written by a newer cambrian-gaze"),
        (rewritten(lambda a, m, f: m.update(version="one")), "its version is 'one'"),
        (rewritten(lambda a, m, f: m.pop("trace")), "damaged gaze trace: KeyError"),
        (rewritten(lambda a, m, f: a.pop("regions")), "damaged gaze trace: KeyError 'regions'"),
        (put("regions", lambda a: a + 1000), "damaged gaze trace: regions"),
        (put("regions", lambda a: a[:, 0]), "4 dimensions"),
        (put("attended", lambda a: a[:-1]), "attended is"),
        (put("boxes", lambda a: a + 100), "lies in no item"),
        (put("logprobs", lambda a: a[:-1]), "logprobs is"),
        (tell(tokens=["a"]), "damaged gaze trace"),
        (tell(tokens=[1, 2, 3]), "a text is none"),
        (tell(image_aspect_ratio="anyres"), "image_aspect_ratio 'anyres'"),
        (tell(items=[]), "lies in no item"),
        (tell(model=None), "facts are no objects"),
    ],
)
def test_other_files_are_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path], None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.safetensors"
    write(path)
    with pytest.raises(TraceError, match=re.escape(said)) as error:
        Trace.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda trace: setattr(trace, "kept", trace.kept[:, 1:]), "kept is"),
        (lambda trace: setattr(trace, "steering", {"hidden": [99]}), "'hidden' names no regions"),
        (lambda trace: setattr(trace, "steering", {"seen": [0]}), "'seen' names no regions"),
    ],
)
def test_what_version_2_brought_is_checked(tmp_path: Path, change: Callable[[Trace], None], said: str) -> None:
    trace = make_trace()
    trace.kept = np.zeros((2, trace.num_visual), dtype=np.float32)
    change(trace)
    with pytest.raises(TraceError, match=said):
        Trace.load(trace.save(tmp_path / "x.safetensors"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda trace: setattr(trace, "attention", trace.attention[:, :, 1:]), "attention is"),
        (lambda trace: setattr(trace, "region_mass", trace.region_mass[..., 1:]), "region_mass is"),
        (lambda trace: setattr(trace, "role_mass", None), "some of attention, region_mass, role_mass are missing"),
        (lambda trace: trace.attention.__setitem__((0, 0, 0), np.nan), "attention has values that are no shares"),
        (lambda trace: trace.role_mass.__setitem__((0, 0, 0), -1), "role_mass has values that are no shares"),
    ],
)
def test_what_version_3_brought_is_checked(tmp_path: Path, change: Callable[[Trace], None], said: str) -> None:
    trace = with_weights(make_trace())
    change(trace)
    with pytest.raises(TraceError, match=said):
        Trace.load(trace.save(tmp_path / "x.safetensors"))


def test_a_picture_of_another_size_is_said() -> None:
    trace = make_trace()
    item = dataclasses.replace(trace.items[0], size=(50, 48))
    with pytest.raises(ValueError, match="no picture of 50x48 pixels: it is 48x48"):
        item.picture()
    with pytest.raises(ValueError, match="no picture of 48x48"):
        dataclasses.replace(trace.items[0], encoded=[b"GIF89a"]).picture()


def test_the_format_is_named() -> None:
    from safetensors import safe_open

    with safe_open(str(OLD), "numpy") as opened:
        assert opened.metadata()["format"] == FORMAT


def test_what_could_not_be_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = make_trace([[noise(40, 30)]])
    size = trace.save(tmp_path / "x.safetensors").stat().st_size
    monkeypatch.setattr("cambrian_gaze.viz.trace_file.MAX_BYTES", size - 1)
    with pytest.raises(TraceError, match=r"y\.safetensors: this trace would have \d+ bytes.*1 pictures and"):
        trace.save(tmp_path / "y.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
