"""Which checkpoints are whole, and which are removed."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cambrian_gaze.training.checkpoint.checkpoint import (
    MARKER,
    checkpoint_steps,
    digests,
    export_model,
    incomplete_because,
    last_complete_checkpoint,
    mark_complete,
    prune,
    read_marker,
)


def checkpoint(folder: Path, step: int, whole: bool = True, **facts: object) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "global_step").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "global_step" / "rank_0.pt").write_bytes(b"state")
    if whole:
        mark_complete(path, step, **facts)
    return path


def test_the_last_whole_one_is_found_and_the_others_are_named(tmp_path: Path) -> None:
    assert last_complete_checkpoint(tmp_path / "nothing") == (None, [])
    good = checkpoint(tmp_path, 9)
    checkpoint(tmp_path, 10, whole=False)
    (checkpoint(tmp_path, 100) / "model.safetensors").write_bytes(b"weig")
    (checkpoint(tmp_path, 11) / "global_step" / "rank_0.pt").unlink()
    (checkpoint(tmp_path, 12) / MARKER).write_text("{")
    checkpoint(tmp_path, 13, resumable=False)
    found, messages = last_complete_checkpoint(tmp_path)
    assert found == good
    reasons = ["4 bytes, not 7", "without the optimizer", "cannot be read", "is missing", "interrupted"]
    assert len(messages) == len(reasons)
    for message, reason in zip(messages, reasons, strict=True):
        assert reason in message


def test_a_whole_one_has_no_reason_against_it(tmp_path: Path) -> None:
    assert incomplete_because(checkpoint(tmp_path, 1)) is None
    assert incomplete_because(tmp_path / "checkpoint-2") is not None


def test_changed_bytes_are_found_by_hash_alone(tmp_path: Path) -> None:
    good, bad = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    (bad / "model.safetensors").write_bytes(b"weighst")
    assert incomplete_because(bad) is None
    assert "model.safetensors is not what was written" in incomplete_because(bad, hashes=True)
    assert last_complete_checkpoint(tmp_path)[0] == bad
    found, messages = last_complete_checkpoint(tmp_path, hashes=True)
    assert found == good and "checkpoint-2 is passed over: model.safetensors" in messages[0]


def test_known_digests_are_taken_and_others_computed(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 1, whole=False)
    state = digests(path, ["global_step/rank_0.pt"])
    mark_complete(path, 1, state | {"model.safetensors": "taken"})
    files = read_marker(path)["files"]
    assert files["model.safetensors"] == {"size": 7, "sha256": "taken"}
    assert files["global_step/rank_0.pt"]["sha256"] == hashlib.sha256(b"state").hexdigest()


def test_milestones_stay(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 12, whole=False)
    prune(tmp_path, 1, milestone=4)
    assert [step for step, _ in checkpoint_steps(tmp_path)] == [4, 8]


def test_what_a_link_leads_to_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "run").mkdir()
    kept = checkpoint(tmp_path / "archive", 1)
    (tmp_path / "run" / "checkpoint-1").symlink_to(kept)
    checkpoint(tmp_path / "run", 2)
    assert [path.name for path in prune(tmp_path / "run", 1)] == ["checkpoint-1"]
    assert incomplete_because(kept) is None and len(checkpoint_steps(tmp_path / "run")) == 1


def test_a_damaged_one_does_not_count_as_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-3" / "model.safetensors").write_bytes(b"wei")
    prune(tmp_path, 1)
    assert [step for step, _ in checkpoint_steps(tmp_path)] == [2]


@pytest.mark.parametrize(("keep", "left"), [(None, [1, 2, 3, 4]), (1, [3]), (2, [2, 3]), (0, [3])])
def test_pruning_keeps_the_newest_whole_ones(tmp_path: Path, keep: int | None, left: list[int]) -> None:
    for step in (1, 2, 3, 4):
        checkpoint(tmp_path, step, whole=step != 4)
    prune(tmp_path, keep)
    assert [step for step, _ in checkpoint_steps(tmp_path)] == left


def test_pruning_spares_the_best(tmp_path: Path) -> None:
    best = checkpoint(tmp_path, 1)
    checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 3)
    assert [path.name for path in prune(tmp_path, 1, [best])] == ["checkpoint-2"]


def test_what_an_export_would_take_along_by_a_link_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 1, whole=False)
    save_file({"a": torch.zeros(1)}, path / "model.safetensors")
    (tmp_path / "secret").write_text("secret")
    (path / "merges.txt").symlink_to(tmp_path / "secret")
    mark_complete(path, 1)
    with pytest.raises(ValueError, match=r"merges\.txt"):
        export_model(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (path / "merges.txt").unlink()
    (path / "merges.txt").write_text("ours")
    mark_complete(path, 1)
    assert export_model(path, tmp_path / "out")[1] == ["merges.txt", "model.safetensors"]
