"""The pages that follow a sample and a decoding step name what is called, in the order in which it is called."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cambrian_gaze import CambrianGazeProcessor
from cambrian_gaze.attention.decode import native
from cambrian_gaze.models.presets import preset
from cambrian_gaze.training.config.config import load
from cambrian_gaze.training.run import train
from tests.models.conftest import ask, make_model, noise
from tests.training._runs import flags, write_data

ROOT = Path(__file__).resolve().parent.parent
STOP = re.compile(r"^(\d+)\. \[([\w/.]+)\]\(\.\./(cambrian_gaze/[\w/.]+)\) `([\w.]+)`: .+", re.MULTILINE)


def stops_of(page: str) -> list[tuple[str, str]]:
    """(file, function) of each numbered line, after a look at numbers, words and count of the page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = STOP.findall(text)
    assert [int(number) for number, *_ in found] == list(range(1, len(found) + 1))
    assert len(found) == len(re.findall(r"^\d+\. ", text, re.MULTILINE)), "a line is written in another way"
    assert all(path == f"cambrian_gaze/{words}" for _, words, path, _ in found)
    assert int(re.search(r"(\d+) files", text).group(1)) == len({path for _, _, path, _ in found}) == len(found)
    return [(path, function.rpartition(".")[2]) for _, _, path, function in found]


def calls_of(run: Callable[[], object]) -> list[tuple[str, str]]:
    """(file, function) of every call into the package during `run`, in order."""
    calls, package = [], str(ROOT / "cambrian_gaze")

    def note(frame, event, argument) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(package):
            calls.append((Path(frame.f_code.co_filename).relative_to(ROOT).as_posix(), frame.f_code.co_name))

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls


def assert_in_this_order(stops: list[tuple[str, str]], calls: list[tuple[str, str]]) -> None:
    """Each stop is called after the one before it."""
    at = 0
    for number, stop in enumerate(stops, start=1):
        assert stop in calls, f"{number}: {stop[1]} of {stop[0]} is not called"
        assert stop in calls[at:], f"{number}: {stop[1]} of {stop[0]} is called, but not after the stop before it"
        at = calls.index(stop, at) + 1


def test_follow_a_sample(tmp_path: Path) -> None:
    options = dict(max_steps=1, random_k=False, progressive=False, save_strategy="no")
    run = load(flags(write_data(tmp_path / "data", ["i"]), tmp_path / "run", **options))
    assert_in_this_order(stops_of("follow_a_sample.md"), calls_of(lambda: train(run)))


def test_follow_a_decoding_step() -> None:
    if native.missing():
        pytest.skip(f"the page follows compiled code: {native.missing()}")
    text_config = preset("tiny")["text_config"] | {"head_dim": 32}  # compiled code takes multiples of 16
    model, processor = make_model(text_config=text_config), CambrianGazeProcessor.from_preset("tiny")
    inputs = processor.apply_chat_template(ask(noise(0)), tokenize=True, add_generation_prompt=True)
    options = dict(max_new_tokens=3, min_new_tokens=3, do_sample=False, return_gaze=True)
    calls = calls_of(lambda: model.generate(**inputs, **options))
    stops = stops_of("follow_a_decoding_step.md")
    begins = [at for at, call in enumerate(calls) if call == stops[0]]
    assert len(begins) == 3, "one call per token"
    assert_in_this_order(stops, calls[begins[-1] :])


def test_an_order_that_is_wrong_is_found() -> None:
    calls = [("a", "f"), ("b", "g"), ("a", "f")]
    assert_in_this_order([("a", "f"), ("b", "g")], calls)
    for stops in ([("b", "g"), ("b", "g")], [("c", "h")]):
        with pytest.raises(AssertionError, match="is called, but not|is not called"):
            assert_in_this_order(stops, calls)
