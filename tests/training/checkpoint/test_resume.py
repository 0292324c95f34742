"""A killed and resumed run has the losses of an uninterrupted one, bit for bit, and no rank waits for ever."""

import json
import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from cambrian_gaze.training.checkpoint.checkpoint import MARKER
from cambrian_gaze.training.launch.agent import EXIT_STOPPED
from cambrian_gaze.training.metrics.log import read_log
from cambrian_gaze.training.order.position import Position
from tests.training._ranks import launch
from tests.training._runs import ROOT, flags, run, run_noting_errors, write_data

EXACT = ("step", "loss", "grad_norm", "lr/decoder", "lr/mm_projector", "keep_ratio", "k", "attended_kv_share")


def zero(stage: int) -> str:
    return str(ROOT / "train" / "deepspeed" / f"zero{stage}.json")


def exact(folder: Path) -> list[tuple]:
    return [tuple(line.get(key) for key in EXACT) for line in read_log(folder)]


PACKED = {
    **{"packing": True, "max_length": 128, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
    **{"dataloader_num_workers": 2, "dataloader_multiprocessing_context": "fork"},
}


@pytest.mark.parametrize(
    ("ranks", "stage", "changes"),
    [(1, None, {}), (2, 1, {}), (2, 2, {}), (2, 2, PACKED)],
    ids=["1 rank", "ZeRO-1", "ZeRO-2", "ZeRO-2, packed, workers"],
)
def test_kill_and_resume_is_exact(pages: Path, tmp_path: Path, ranks: int, stage: int | None, changes: dict) -> None:
    """With packing the checkpoint lies in mid-epoch, and the dead run has read ahead of it."""
    if changes:
        pages = write_data(tmp_path / "many", list("iitiiiitiiii" * 5))
    changes = {**changes, "deepspeed": zero(stage)} if stage else changes
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert launch(ranks, run, flags(pages, whole, **changes)) == [0] * ranks
    assert -signal.SIGKILL in launch(ranks, run, flags(pages, broken, **changes), 6)
    assert [line["step"] for line in read_log(broken)] == [1, 2, 3, 4, 5]
    if changes.get("packing"):
        assert Position.load(broken / "checkpoint-3").packs == 12
    # What a run leaves that dies while it writes its next checkpoint: it must not be resumed from.
    shutil.copytree(broken / "checkpoint-3", broken / "checkpoint-6")
    (broken / "checkpoint-6" / MARKER).unlink()
    assert launch(ranks, run, flags(pages, broken, **changes)) == [0] * ranks
    assert exact(broken) == exact(whole)
    assert [line["attempt"] for line in read_log(broken)] == [1, 1, 1, 2, 2, 2, 2, 2]
    assert len({line[5] for line in exact(whole)}) > 2, "K must have changed on the way"


def run_noting_rows(argv: list[str], notes: str, kill_at: int | None = None) -> int:
    """As `run`; what the loader draws is appended to `notes`, a line of [step, rows] per draw."""
    from cambrian_gaze.data.mixture.mixture import PlannedDataset
    from cambrian_gaze.data.mixture.plan import Draw, Pack

    read = PlannedDataset.__getitem__

    def noted(self: PlannedDataset, draw: Draw) -> Pack:
        note = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(note, f"{json.dumps([draw.step, draw.rows])}\n".encode())
        os.close(note)
        return read(self, draw)

    PlannedDataset.__getitem__ = noted
    return run(argv, kill_at)


@pytest.mark.slow
@pytest.mark.parametrize("packing", [True, None], ids=["packed", "unpacked"])
def test_an_epoch_over_two_then_one_then_three_ranks_sees_each_row_once(tmp_path: Path, packing: bool | None) -> None:
    data, output = write_data(tmp_path / "data", list("itt" * 48)), tmp_path / "run"
    common = {"max_steps": -1, "num_train_epochs": 1, "save_steps": 2, "packing": packing, "max_length": 96}
    attempts = [
        (2, {"per_device_train_batch_size": 2}, 6),
        (1, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "dataloader_num_workers": 1}, 8),
        (3, {"per_device_train_batch_size": 1}, None),
    ]
    seen: list[list[tuple[int, list[int]]]] = []
    for number, (ranks, changes, kill_at) in enumerate(attempts):
        notes = tmp_path / f"notes{number}"
        more = {"dataloader_multiprocessing_context": "fork"} if "dataloader_num_workers" in changes else {}
        codes = launch(ranks, run_noting_rows, flags(data, output, **common, **changes, **more), str(notes), kill_at)
        assert (-signal.SIGKILL in codes) == (kill_at is not None), codes
        seen.append([tuple(json.loads(line)) for line in notes.read_text().splitlines()])
    # Checkpoints lie at the steps 4 and 6; what a dead attempt did beyond its last one is no part of the run.
    kept = [(step, rows) for step, rows in seen[0] if step <= 4]
    kept += [(step, rows) for step, rows in seen[1] if step <= 6] + seen[2]
    assert min(step for step, _ in seen[1]) == 5 and min(step for step, _ in seen[2]) == 7
    counts = Counter(row for _, rows in kept for row in rows)
    assert counts == Counter(range(144))
    assert read_log(output)[-1]["epoch"] == 1.0
    per_step = Counter(step for step, _ in kept)
    assert [per_step[step] for step in range(1, 9)] == [4, 4, 4, 4, 4, 4, 3, 3]


def test_all_ranks_stop_together_when_too_much_is_quarantined(tmp_path: Path) -> None:
    """All that cannot be read is in one rank's share."""
    data, note = write_data(tmp_path / "data", list("iibi" * 6)), str(tmp_path / "note")
    changes = {"train_sampling_strategy": "sequential", "max_quarantined_share": 0.04, "deepspeed": zero(2)}
    argv = flags(data, tmp_path / "run", **changes)
    assert launch(2, run_noting_errors, argv, note, ends=EXIT_STOPPED, timeout=60) == [EXIT_STOPPED] * 2
    first, second = (Path(f"{note}{rank}").read_text() for rank in range(2))
    assert "1 of 4 samples (25.0%) could not be used" in first and "could not be used" not in second


def decide_badly(seconds: float) -> int:
    """0 where every rank hears within `seconds` that the first one could not decide."""
    import torch.distributed as dist

    from cambrian_gaze.training.checkpoint.resume import first_rank_decides

    dist.init_process_group("gloo")
    began = time.monotonic()
    with pytest.raises(KeyError if dist.get_rank() == 0 else ValueError, match="weights"):
        first_rank_decides(lambda: {}["weights"])
    return int(time.monotonic() - began > seconds)


def test_a_first_rank_that_fails_keeps_nobody_waiting() -> None:
    assert launch(2, decide_badly, 20.0, timeout=60) == [0, 0]


def test_ranks_without_images_take_part(tmp_path: Path) -> None:
    """One rank sees images and the other text alone, tower included; the loss is that of one rank with both."""
    data = write_data(tmp_path / "mixed", list("itit" * 3))
    common = {
        "train_sampling_strategy": "sequential",
        "unfreeze_mm_vision_tower": True,
        "max_steps": 4,
        "save_strategy": "no",
        "random_k": None,
    }
    together, apart = tmp_path / "together", tmp_path / "apart"
    assert launch(1, run, flags(data, together, **common)) == [0]
    two = {"per_device_train_batch_size": 1, "deepspeed": zero(2)}
    assert launch(2, run, flags(data, apart, **common, **two)) == [0, 0]
    losses = [[line["loss"] for line in read_log(folder)] for folder in (together, apart)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert [line["attended_kv_share"] for line in read_log(apart)] == pytest.approx(
        [line["attended_kv_share"] for line in read_log(together)], rel=1e-4
    )
