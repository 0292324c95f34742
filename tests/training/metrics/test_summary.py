"""A run with everything on leaves samples, TensorBoard events and one page; the page can be made again."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from cambrian_gaze.cli.main import main
from cambrian_gaze.training.metrics.log import read_log
from cambrian_gaze.training.metrics.samples import pictures, samples_with_pictures
from cambrian_gaze.training.metrics.summary import write_summary
from cambrian_gaze.viz.trace import Trace
from cambrian_gaze.viz.viewer import viewer_page
from tests.training._runs import write_data
from tests.training.test_trainer import train
from tests.viz._traces import make_trace


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
    assert (tmp_path / "again.html").read_text() == page.replace("summary_gaze.html", "again_gaze.html")
    assert 'href="summary_gaze.html">Open steps 2 and 4 in the viewer<' in page
    panes = (shown / "summary_gaze.html").read_text()
    assert panes == (tmp_path / "again_gaze.html").read_text()
    assert '"step 2"' in panes and '"step 4"' in panes and trace.prompt in panes
    for title in ("Loss by modality", "Regions kept", "Where it looked", "Samples that could not be used"):
        assert title in page
    assert "step 4 of 4" in page and page.count("data:image/png") == 2
    assert not re.search(r"https?://", page.split("</style>")[1].replace("http://www.w3.org", ""))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that logged one step and left no samples."""
    folder = tmp_path / "run"
    (folder / "samples").mkdir(parents=True)
    numbers = {"loss": 1.0, "visual_tokens_per_s": 1.0, "text_tokens_per_s": 1.0, "step_seconds": 1.0}
    lines = [{"event": "start", "attempt": 1, "from_step": 0, "time": 0.0}]
    lines += [{"event": "log", "attempt": 1, "step": 1, **numbers}]
    (folder / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def sample(run: Path, step: int) -> None:
    Image.new("RGB", (8, 8)).save(run / "samples" / f"step-{step}.png")
    make_trace(prompt=f"asked at {step}").save(run / "samples" / f"step-{step}.safetensors")


def test_the_first_the_middle_and_the_last_step_stand_beside_each_other(run: Path) -> None:
    for step in (100, 20, 3, 40, 1000):
        sample(run, step)
    page = write_summary(run).read_text()
    assert "Open steps 3, 40 and 1,000 in the viewer" in page
    panes = (run / "summary_gaze.html").read_text()
    shown = [step for step in (3, 20, 40, 100, 1000) if f"asked at {step}\\u003c/title" in panes]
    assert shown == [3, 40, 1000] and '"step 1,000"' in panes


def test_one_step_is_shown_alone_and_a_damaged_trace_is_named(run: Path) -> None:
    assert "in the viewer" not in write_summary(run).read_text() and not (run / "summary_gaze.html").exists()
    sample(run, 1)
    (run / "samples" / "step-2.safetensors").write_bytes(b"torn")
    page = write_summary(run).read_text()
    assert "Open step 1 in the viewer" in page and "not in the viewer" in page and "step-2.safetensors" in page
    assert (run / "summary_gaze.html").read_text() == viewer_page(Trace.load(run / "samples" / "step-1.safetensors"))


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
