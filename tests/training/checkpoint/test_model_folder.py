"""Every checkpoint of a run says where it comes from."""

from pathlib import Path

from cambrian_gaze.models.folders.lineage import read_lineage, weights_digest
from tests.training._runs import flags, run, write_data


def test_two_stages_leave_their_descent(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", list("iiti"))
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(flags(data, one, stage=1, max_steps=2, save_steps=1)) == 0
    again = {"stage": 2, "max_steps": 1, "warmup_ratio": 0, "preset": None, "model_overrides": None}
    assert run(flags(data, two, **again, model_name_or_path=one)) == 0

    lineage = read_lineage(two)
    assert lineage["made_by"] == "train, stage 2, step 1"
    assert lineage["weights"] == weights_digest(two) != weights_digest(one)
    (first,) = lineage["parents"]
    assert first["lineage"] == read_lineage(one) and first["name"] == str(one)
    assert first["lineage"]["weights"] == weights_digest(one)
    assert first["lineage"]["parents"] == [{"role": "preset, fresh weights", "name": "tiny"}]
    assert lineage["data"]["recipe"] == first["lineage"]["data"]["recipe"]
    assert list(lineage["data"]["files"]) == [str(data)]
    midway = read_lineage(one / "checkpoint-1")
    assert midway["made_by"] == "train, stage 1, step 1" and midway["weights"] == weights_digest(one / "checkpoint-1")
