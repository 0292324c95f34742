"""Samples to a batch."""

import pytest
import torch

from cambrian_gaze.data.collator import Collator
from cambrian_gaze.data.mixture.plan import Pack
from cambrian_gaze.data.quarantine import Dropped, Quarantined

GONE = Quarantined("f", 1, "x", "bad")
DROPPED = Dropped("f", 2, "y", "long")


def sample(length: int, units: int = 0) -> dict:
    out = {
        "id": str(length),
        "input_ids": torch.arange(1, length + 1),
        "labels": torch.arange(1, length + 1) * 10,
        "mm_token_type_ids": torch.ones(length, dtype=torch.int64),
    }
    if units:
        out["pixel_values"] = torch.full((units, 3, 2, 2), float(length))
        out["grid_thw"] = torch.tensor([[1, 1, length]] * units)
    return out


@pytest.mark.parametrize(
    ("side", "ids", "mask"),
    [
        ("right", [[1, 2, 9], [1, 2, 3]], [[1, 1, 0], [1, 1, 1]]),
        ("left", [[9, 1, 2], [1, 2, 3]], [[0, 1, 1], [1, 1, 1]]),
    ],
)
def test_padding(side, ids, mask):
    batch = Collator(pad_token_id=9, padding_side=side)([sample(2), sample(3)])
    assert batch["input_ids"].tolist() == ids and batch["attention_mask"].tolist() == mask
    padding = batch["attention_mask"] == 0
    assert (batch["labels"][padding] == -100).all() and (batch["mm_token_type_ids"][padding] == 0).all()
    assert (batch["labels"][~padding] == batch["input_ids"][~padding] * 10).all()
    counts = {"num_samples", "num_quarantined", "num_filled", "num_overlong", "num_declared", "num_too_long"}
    assert set(batch) == {"input_ids", "attention_mask", "mm_token_type_ids", "labels", "samples"} | counts
    assert all(batch[key].dtype == torch.int64 for key in batch.keys() - counts - {"samples"})


def test_pictures_keep_their_order_and_text_rows_have_none():
    batch = Collator(0)([sample(2, units=2), sample(4), sample(3, units=1)])
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [2, 2, 3]
    assert batch["grid_thw"].tolist() == [[1, 1, 2], [1, 1, 2], [1, 1, 3]]


def test_quarantined_samples_are_dropped_and_counted():
    batch = Collator(0)([GONE, sample(2, units=1), GONE])
    assert batch["num_quarantined"] == 2 and type(batch["num_quarantined"]) is int
    assert batch["input_ids"].tolist() == [[1, 2]] and len(batch["pixel_values"]) == 1


def test_a_batch_of_nothing_is_text_without_supervision():
    batch = Collator(9)([GONE, GONE])
    assert batch["num_quarantined"] == 2 and batch["input_ids"].tolist() == [[9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1]] and batch["mm_token_type_ids"].tolist() == [[0, 0]]
    assert batch["labels"].tolist() == [[-100, -100]] and "pixel_values" not in batch and "grid_thw" not in batch


def test_lengths():
    assert Collator(0, pad_to_multiple_of=8)([sample(9)])["input_ids"].shape == (1, 16)
    with pytest.raises(ValueError, match="a row of 9 tokens exceeds max_length 8; give the dataset"):
        Collator(0, max_length=8)([sample(9)])
    with pytest.raises(ValueError, match="padding_side='both'"):
        Collator(0, padding_side="both")


@pytest.mark.parametrize(
    ("side", "samples"), [("right", [[0, 0, 1, 1, 1], [0, 0, 0, 0, -1]]), ("left", [[0, 0, 1, 1, 1], [-1, 0, 0, 0, 0]])]
)
def test_a_pack_is_a_row_in_which_no_sample_predicts_the_next(side, samples):
    packs = [Pack([sample(2, units=1), sample(3, units=2)]), Pack([sample(4)])]
    batch = Collator(9, padding_side=side)(packs)
    assert batch["sample_ids"].tolist() == samples
    assert batch["input_ids"][0].tolist() == [1, 2, 1, 2, 3]
    assert batch["labels"][0].tolist() == [-100, 20, -100, 20, 30]
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [2, 3, 3] and batch["num_samples"] == 3


def test_what_was_lost_filled_and_shortened_is_counted():
    packs = [Pack([sample(2)], [GONE, DROPPED], 1), Pack([], [GONE]), Pack([sample(3) | {"overlong": "truncate_text"}])]
    batch = Collator(0)(packs)
    assert batch["input_ids"].shape == (2, 3) and "sample_ids" not in batch
    names = ("num_samples", "num_quarantined", "num_filled", "num_overlong")
    assert [batch[name] for name in names] == [2, 2, 1, 2]
