"""Killed at twenty random moments and resumed, with one and with two processes: the answers files are the same."""

import random
import shutil
import time
from pathlib import Path

import pytest

from cambrian_gaze.evaluation.results import journals
from tests.evaluation._interrupted import Interrupter

KILLS = 20
TASKS = "mme,mmbench_en,mmvp,mmmu_val,mlvu"


def answers(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((output / "answers").iterdir())}


@pytest.mark.slow
def test_killed_and_resumed(tiny, data_root: Path, tmp_path: Path) -> None:
    model, processor = tiny
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    interrupter = Interrupter(data_root.parent / "cache", tmp_path / "log")

    def arguments(name: str) -> list[str]:
        source = ["--model", str(tmp_path / "model"), "--data_root", str(data_root), "--tasks", TASKS]
        limits = ["--max_new_tokens", "12", "--batch_size", "1", "--protocol", "both", "--device", "cpu"]
        return [*source, *limits, "--output", str(tmp_path / name)]

    def seconds() -> float:
        start = time.monotonic()
        assert interrupter.run(arguments("whole"), world=1)
        return time.monotonic() - start

    whole, again = seconds(), seconds()  # the second finds everything answered: reading and loading alone
    expected = answers(tmp_path / "whole")
    assert len(expected) == 10

    moments = random.Random(0)
    for worlds, last in (((1,), 2), ((2, 1), 1)):
        name = f"killed{len(worlds)}"
        kills = grown = before = 0
        for number in range(KILLS):
            moment = moments.uniform(0.5 * again, again + 0.15 * whole)
            ended = interrupter.run(arguments(name), worlds[number % len(worlds)], moment)
            if ended:
                assert answers(tmp_path / name) == expected
                shutil.rmtree(tmp_path / name)
            lines = sum(path.read_bytes().count(b"\n") for path in journals(tmp_path / name))
            kills, grown, before = kills + (not ended), grown + (lines > before), lines
        assert kills >= KILLS / 2 and grown >= KILLS / 5
        assert interrupter.run(arguments(name), last)
        assert answers(tmp_path / name) == expected
