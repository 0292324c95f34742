"""Draws are read, and the places of what cannot be read are filled, the same way by any number of workers."""

import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cambrian_gaze.data.mixture.mixture import PlannedDataset
from cambrian_gaze.data.mixture.plan import Draw, EpochOrder, Pack
from cambrian_gaze.data.quarantine import Dropped, Quarantined, QuarantineLog, read_quarantine
from cambrian_gaze.data.records.records import Record

BAD = {3, 4, 9}


class Rows:
    """Row i has 10 + i tokens; some cannot be read."""

    def __init__(self, log: QuarantineLog | None = None, bad: set[int] = BAD) -> None:
        self.log, self.bad = log, bad

    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int):
        if row not in self.bad:
            return {"id": f"r{row}", "input_ids": torch.zeros(10 + row)}
        item = Quarantined("f.jsonl", row + 1, f"r{row}", "broken")
        if self.log:
            self.log.add(item)
        return item

    def record(self, row: int) -> Record:
        return Record(f"r{row}", [], file="f.jsonl", row=row + 1)


def ids(pack: Pack) -> list[str]:
    return [sample["id"] for sample in pack.samples]


def test_the_next_readable_row_of_the_plan_fills_in(tmp_path):
    log = QuarantineLog(tmp_path / "quarantine.jsonl", rank=5)
    data = PlannedDataset(Rows(log), quarantine=log)
    pack = data[EpochOrder(12, shuffle=False).draw(0, 3, step=17)]
    assert (ids(pack), pack.filled, [item.id for item in pack.lost]) == (["r5"], 1, ["r3"])
    logged = [(entry["id"], entry["rank"], entry["step"]) for entry in read_quarantine(log.path)]
    assert logged == [("r3", 5, 17), ("r4", 5, 17)]
    fill = json.loads((tmp_path / "quarantine.fills.jsonl").read_text())
    assert (fill["id"], fill["row"], fill["step"], fill["rank"]) == ("r3", 4, 17, 5)
    assert fill["filled_by"] == {"file": "f.jsonl", "row": 6, "id": "r5"}


def test_a_filler_must_fit_into_what_the_pack_has_left():
    data = PlannedDataset(Rows(), capacity=40)
    pack = data[Draw((0, 3, 1), (8, 9, 5))]  # 10 + 11 tokens are there, 19 are left: r8 has 18, and r5 would fit too
    assert (ids(pack), pack.filled) == (["r0", "r8", "r1"], 1)
    pack = data[Draw((0, 3, 1), (11, 9, 5))]
    assert (ids(pack), pack.filled) == (["r0", "r5", "r1"], 1)
    pack = data[Draw((3, 0, 4), (11, 5))]  # one fits, then nothing does
    assert (ids(pack), pack.filled, len(pack.lost)) == (["r11", "r0"], 1, 2)


def test_what_cannot_be_filled_is_left_empty_and_counted():
    pack = PlannedDataset(Rows())[Draw((3,), (4, 9))]
    assert (pack.samples, pack.filled, len(pack.lost)) == ([], 0, 1)


def test_a_sample_that_grew_since_its_pack_was_made_is_set_aside(tmp_path):
    log = QuarantineLog(tmp_path / "quarantine.jsonl", rank=0)
    pack = PlannedDataset(Rows(), 25, log)[Draw((0, 6), (2,))]  # 10 + 16 tokens
    assert ids(pack) == ["r0", "r2"] and "16 tokens do not fit" in pack.lost[0].reason
    assert [(entry["file"], entry["row"]) for entry in read_quarantine(log.path)] == [("f.jsonl", 7)]


def test_dropped_samples_are_no_fault():
    class Long(Rows):
        def __getitem__(self, row: int):
            found = super().__getitem__(row)
            return Dropped(*vars(found).values()) if isinstance(found, Quarantined) else found

    pack = PlannedDataset(Long())[Draw((3,), (5,))]
    assert ids(pack) == ["r5"] and isinstance(pack.lost[0], Dropped)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    order = EpochOrder(12, seed=4, lengths=np.arange(12) + 10, capacity=45)
    draws = [order.draw(0, pack) for pack in range(order.num_packs(0))]
    data = PlannedDataset(Rows(), 45)
    loader = DataLoader(data, batch_sampler=[[draw] for draw in draws], collate_fn=list, num_workers=workers)
    assert [ids(pack) for [pack] in loader] == [ids(data[draw]) for draw in draws]
    assert sum(data[draw].filled for draw in draws) == 3


def test_a_plan_follows_from_seed_and_epoch_and_leaves_out_what_it_should():
    rows = np.delete(np.arange(30), [4, 7])
    lengths = np.random.default_rng(0).integers(1, 40, 30)
    order = EpochOrder(rows, seed=2, lengths=lengths, capacity=64)
    first, second = order.plan(0), order.plan(1)
    assert sorted(first.rows.tolist()) == sorted(second.rows.tolist()) == rows.tolist()
    assert first.rows.tolist() != second.rows.tolist()
    assert EpochOrder(rows, seed=2, lengths=lengths, capacity=64).plan(1).rows.tolist() == second.rows.tolist()
    assert order.num_packs(0) == len(first) and order.packed
    others = [
        EpochOrder(rows, seed=3, lengths=lengths, capacity=64),
        EpochOrder(rows, seed=2, lengths=lengths + 1, capacity=64),
        EpochOrder(rows, seed=2, lengths=lengths, capacity=65),
        EpochOrder(rows, seed=2),
        EpochOrder(30, seed=2, lengths=lengths, capacity=64),
    ]
    assert all(other.fingerprint() != order.fingerprint() for other in others)
