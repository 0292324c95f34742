"""A run with everything on leaves samples, TensorBoard events and one page; the page can be made again."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cambrian_gaze.cli.main import main
from cambrian_gaze.training.metrics.log import read_log
from cambrian_gaze.training.metrics.samples import pictures, samples_with_pictures
from cambrian_gaze.viz.trace import Trace
from cambrian_gaze.viz.viewer import viewer_page
from tests.training._runs import write_data
from tests.training.test_trainer import train


def test_a_run_draws_samples_without_changing_and_ends_with_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_data(tmp_path / "data", list("tiitiibii"))
    options = {"max_steps": 4, "max_quarantined_share": 0.9, "train_sampling_strategy": "sequential"}
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    shown = tmp_path / "shown"
    train(data, shown, sample_steps=2, probe_steps=2, report_to="tensorboard", **options)
    train(data, tmp_path / "plain", **options)
    losses = [[line["loss"] for line in read_log(folder)] for folder in (shown, tmp_path / "plain")]
    assert losses[0] == losses[1], "looking must not change the run"
    for line in read_log(shown)[1:]:  # in the first step the schedule keeps all regions
        assert 0 <= line["routing_entropy"] <= 1 and 0 < line["region_coverage"] <= 1
    masses = [line.get("probe_mass") for line in read_log(shown)]
    assert masses[0] is masses[2] is None and all(2 / 16 < mass < 1 for mass in (masses[1], masses[3]))
    assert sorted(path.name for path in (shown / "samples").glob("*.png")) == ["step-2.png", "step-4.png"]
    trace = Trace.load(shown / "samples" / "step-4.safetensors")
    assert trace.answer == (shown / "samples" / "step-4.txt").read_text().strip() and trace.prompt
    assert "user" not in trace.prompt and trace.logprobs is not None and trace.prompt in viewer_page(trace)
    events = b"".join(path.read_bytes() for path in (tmp_path / "board").rglob("events*"))
    assert b"gaze" in events and b"loss/modality/image" in events
    page = (shown / "summary.html").read_text()
    (shown / "summary.html").unlink()
    assert main(["report", str(shown), "--output", str(tmp_path / "again.html")]) == 0
    assert capsys.readouterr().out.strip().endswith("again.html")
    assert (tmp_path / "again.html").read_text() == page
    for title in ("Loss by modality", "Regions kept", "Where it looked", "Samples that could not be used"):
        assert title in page
    assert "step 4 of 4" in page and page.count("data:image/png") == 2
    assert not re.search(r"https?://", page.split("</style>")[1].replace("http://www.w3.org", ""))


def test_the_page_of_a_folder_without_a_run_says_what_to_name(tmp_path: Path, capsys) -> None:
    assert main(["report", str(tmp_path)]) == 1
    assert "output_dir" in capsys.readouterr().err


def test_pictures_are_those_that_the_model_sees() -> None:
    pixels = torch.stack([torch.full((3, 2, 2), value) for value in (-1.0, 0.0, 1.0)])
    sample = {"pixel_values": pixels, "grid_thw": torch.tensor([[1, 1, 1], [2, 1, 1]])}
    sample["picture_sizes"] = torch.tensor([[8, 4], [2, 2], [2, 2]])
    half = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    wide, _ = pictures(sample, SimpleNamespace(image_processor=half, image_aspect_ratio="square"))
    assert wide.size == (2, 1)
    image, frames = pictures(sample, SimpleNamespace(image_processor=half, image_aspect_ratio="pad"))
    assert image.getpixel((0, 0)) == (0, 0, 0)
    assert [frame.getpixel((1, 1)) for frame in frames] == [(128, 128, 128), (255, 255, 255)]
    assert samples_with_pictures([{"labels": torch.tensor([1])}], 2) == []
