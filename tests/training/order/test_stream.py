"""Runs on streamed tables: exact after a kill, on one rank and on two, and refused where they cannot work."""

import io
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cambrian_gaze.data.quarantine import read_quarantine
from cambrian_gaze.training.metrics.log import read_log
from tests.training._ranks import launch
from tests.training._runs import ROOT, flags, run

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("datasets")

EXACT = ("step", "loss", "grad_norm", "lr/decoder", "k")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two shards of 7 rows, each with its picture; one of the 14 pictures is none."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    generator = np.random.default_rng(0)
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(2):
        rows = []
        for number in range(7 * shard, 7 * shard + 7):
            stream = io.BytesIO()
            Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(stream, "PNG")
            content = b"no picture" if number == 3 else stream.getvalue()
            answer = "Read" + " B3 7" * (1 + number % 3)
            turns = [{"from": "human", "value": "<image>\nRead B3"}, {"from": "gpt", "value": answer}]
            rows.append({"id": str(number), "image": {"bytes": content, "path": None}, "conversations": turns})
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"{shard}.parquet", row_group_size=3)
    file = tmp_path / "stream.yaml"
    file.write_text("datasets: [{path: shards, streaming: true}]")
    return file


@pytest.mark.parametrize(
    ("ranks", "workers"),
    [(1, 0), pytest.param(1, 1, marks=pytest.mark.slow), pytest.param(2, 1, marks=pytest.mark.slow)],
)
def test_kill_and_resume_is_exact(recipe: Path, tmp_path: Path, ranks: int, workers: int) -> None:
    """Eight steps read more than the stream holds: it begins again, and the resumed run with it."""
    changes = {"dataloader_num_workers": workers, "max_quarantined_share": 0.5}
    changes |= {"dataloader_multiprocessing_context": "fork"} if workers else {}
    changes |= {"deepspeed": str(ROOT / "train" / "deepspeed" / "zero2.json")} if ranks > 1 else {}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert launch(ranks, run, flags(recipe, whole, **changes)) == [0] * ranks
    assert -signal.SIGKILL in launch(ranks, run, flags(recipe, broken, **changes), 6)
    names = {path.name for path in (broken / "checkpoint-3").glob("data_stream_*")}
    assert names == {f"data_stream_{rank}.json" for rank in range(ranks)}
    assert launch(ranks, run, flags(recipe, broken, **changes)) == [0] * ranks
    lines = [[tuple(line.get(key) for key in EXACT) for line in read_log(folder)] for folder in (whole, broken)]
    assert lines[0] == lines[1] and [line[0] for line in lines[0]] == list(range(1, 9))
    assert len({line[1] for line in lines[0]}) == 8, "other samples at every step"
    (lost,) = read_quarantine(whole / "quarantine.jsonl")
    assert lost["id"] == "3" and "a picture in the table" in lost["reason"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"max_steps": -1}, "set max_steps .now -1."),
        ({"dataloader_num_workers": 2}, "dataloader_num_workers to 0 or 1 .now 2."),
        ({"packing": True}, "packing and exclude need to know the rows"),
    ],
)
def test_what_a_stream_cannot_do(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict, why: str
) -> None:
    assert run(flags(recipe, tmp_path / "run", **changes)) == 2
    assert re.search(why, capsys.readouterr().err)


def test_a_stream_beside_an_index_is_refused(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_text("datasets: [{path: shards, streaming: true}, {path: shards/0.parquet}]")
    assert run(flags(recipe, tmp_path / "run")) == 2
    said = capsys.readouterr().err
    assert re.search("entry 1: .*is streamed and others are not; stream all or none", said)
