"""Killed at twenty random moments and resumed, with one and with two processes: the answers files are the same."""

import random
import shutil
import time
from pathlib import Path

import pytest

from cambrian_gaze.evaluation.results import journals
from tests.evaluation._interrupted import Interrupter

KILLS = 20
TASKS = "mme,mmbench_en,mmvp,mmmu_val,mlvu,nextqa,tempcompass"


def answers(output: Path) -> dict[str, bytes]:
    # A kill may leave the temporary file of a write that did not end.
    return {path.name: path.read_bytes() for path in sorted((output / "answers").glob("[!.]*"))}


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

    def lines(name: str) -> int:
        return sum(path.read_bytes().count(b"\n") for path in journals(tmp_path / name))

    assert interrupter.run(arguments("whole"), world=1)
    expected = answers(tmp_path / "whole")
    assert len(expected) == 14

    chance = random.Random(0)
    for worlds, last in (((1,), 2), ((2, 1), 1)):
        name, kills, grown = f"killed{len(worlds)}", 0, 0
        while kills < KILLS:
            before, more, pause = lines(name), chance.randint(0, 5), chance.uniform(0, 0.3)
            reached: list[float] = []

            def moment(name=name, wanted=before + more, pause=pause, reached=reached) -> bool:
                """Some answers more than there were, and a pause that ends anywhere."""
                if not reached and lines(name) >= wanted:
                    reached.append(time.monotonic() + pause)
                return bool(reached) and time.monotonic() > reached[0]

            if interrupter.run(arguments(name), worlds[kills % len(worlds)], moment):
                assert answers(tmp_path / name) == expected
                shutil.rmtree(tmp_path / name)
            else:
                kills, grown = kills + 1, grown + (lines(name) > before)
        assert grown >= KILLS / 2
        assert interrupter.run(arguments(name), last)
        assert answers(tmp_path / name) == expected
