"""A killed and resumed run has the losses of an uninterrupted one, bit for bit, and no rank waits for ever."""

import shutil
import signal
from pathlib import Path

import pytest

from cambrian_gaze.training.checkpoint import MARKER
from cambrian_gaze.training.log import read_log
from cambrian_gaze.training.position import Position
from tests.training._ranks import launch
from tests.training._runs import ROOT, flags, run, write_data

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
