"""`cambrian-gaze gaze`, and what `generate` writes for it."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from cambrian_gaze.cli.main import main
from cambrian_gaze.viz.trace import Trace

OLD = Path(__file__).parents[2] / "viz" / "data" / "trace_v1.safetensors"


def test_generate_writes_a_trace_and_its_page(
    model_dir: Path, page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace_file, report = tmp_path / "new" / "a.safetensors", tmp_path / "new" / "a.html"
    asked = ["generate", "--model", str(model_dir), "--prompt", "What is this?", "--max_new_tokens", "3"]
    files = ["--trace_file", str(trace_file), "--gaze_report", str(report)]
    assert main([*asked, "--top_k", "2", "--image", str(page), *files]) == 0
    trace = Trace.load(trace_file)
    assert trace.answer == capsys.readouterr().out.strip()
    assert trace.prompt == "What is this?" and trace.items[0].source == str(page)
    assert trace.logprobs is not None and trace.gaze["image"]["top_k"] == 2
    assert trace.model["name"] == str(model_dir) and trace.model["weights"].startswith("sha256:")
    assert (
        trace.heat(0).sum() == pytest.approx(trace.role_mass[0, :, 0].mean(), rel=1e-2)
        and trace.mass(0, 0, 0) is not None
    )
    with Image.open(page) as image:
        assert trace.items[0].picture().tobytes() == image.convert("RGB").tobytes()

    assert main(["gaze", "view", str(trace_file)]) == 0
    written = Path(capsys.readouterr().out.strip())
    assert written == trace_file.with_suffix(".html")
    assert written.read_bytes() == report.read_bytes()
    both = tmp_path / "both.html"
    assert main(["gaze", "view", str(trace_file), str(OLD), "-o", str(both)]) == 0
    held = re.search(r'id="pages">(.*?)</script>', both.read_text(), re.DOTALL)
    assert held is not None and [pane["name"] for pane in json.loads(held[1])] == ["a", "trace_v1"]


def test_what_a_policy_keeps_is_in_the_trace(model_dir: Path, page: Path, tmp_path: Path) -> None:
    files = ["--trace_file", str(tmp_path / "a.safetensors"), "--gaze_report", str(tmp_path / "a.html")]
    asked = ["generate", "--model", str(model_dir), "--prompt", "What?", "--max_new_tokens", "2", "--image", str(page)]
    assert main([*asked, *files, "--policy", "snapkv", "budget=8"]) == 0
    trace = Trace.load(tmp_path / "a.safetensors")
    assert trace.kept.sum(1) == pytest.approx(8.0) and (trace.attended[..., 0] == 8).all()
    assert trace.model["policy"]["name"] == "snapkv" and trace.gaze["image"]["keep_ratio"] == 1.0
    assert "snapkv" in (tmp_path / "a.html").read_text()
    gone = trace.kept.max(0) == 0
    assert gone.any() and (trace.heat(1)[gone] == 0).all() and (trace.heat(1)[~gone] > 0).all()
    heat = ["gaze", "render", str(tmp_path / "a.safetensors"), "-o", str(tmp_path / "heat.png"), "--heat"]
    assert main(heat) == 0 and (tmp_path / "heat.png").stat().st_size > 1000
    assert (
        main(["gaze", "render", str(tmp_path / "a.safetensors"), "-o", str(tmp_path / "a.png"), "--tokens", "0"]) == 0
    )


def test_a_video_and_an_image_in_one_trace(model_dir: Path, page: Path, tmp_path: Path) -> None:
    (tmp_path / "film").mkdir()
    for number in range(3):
        (tmp_path / "film" / f"{number}.png").write_bytes(page.read_bytes())
    shown = ["--video", str(tmp_path / "film"), "--image", str(page), "--prompt", "<video> then <image>"]
    asked = ["generate", "--model", str(model_dir), "--max_new_tokens", "2", "--top_k", "1", *shown]
    assert main([*asked, "--trace_file", str(tmp_path / "a.safetensors")]) == 0
    trace = Trace.load(tmp_path / "a.safetensors")
    assert [(item.kind, item.grid[0], item.source) for item in trace.items] == [
        ("video", 3, str(tmp_path / "film")),
        ("image", 1, str(page)),
    ]
    for name in ("a.png", "a.svg", "a.pdf"):
        target = tmp_path / name
        assert main(["gaze", "render", str(tmp_path / "a.safetensors"), "-o", str(target), "--by", "frame"]) == 0
        assert target.stat().st_size > 500


def test_frames_of_several_sizes_are_refused_before_the_model_answers(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "film").mkdir()
    for number, size in enumerate([(30, 20), (20, 30)]):
        Image.new("RGB", size).save(tmp_path / "film" / f"{number}.png")
    asked = ["generate", "--model", "nowhere", "--prompt", "What?", "--video", str(tmp_path / "film")]
    assert main([*asked, "--gaze_report", str(tmp_path / "x.html")]) == 2
    assert "frames of 2 sizes (20x30, 30x20)" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--trace_file", "--gaze_report"])
def test_without_a_picture_there_is_no_gaze(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--model", str(tmp_path), "--prompt", "What?", option, str(tmp_path / "x")])
    assert f"{option} shows where the model looked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["view", "nowhere.safetensors"], "nowhere.safetensors: No such file"),
        (["view", "{text}"], "no gaze trace"),
        (["view", "{old}", "-o", "{old}"], "is the trace itself"),
        (["render", "{old}", "-o", "{text}"], "written as .png, .svg, .pdf, .gif, .mp4"),
        (["render", "{old}", "-o", "x.png", "--tokens", "99"], "token 99: the trace has tokens 0 to"),
    ],
)
def test_what_is_given_wrongly_is_said_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.txt").write_text("no trace")
    assert main(["gaze", *(word.format(text=tmp_path / "x.txt", old=OLD) for word in arguments)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"cambrian-gaze gaze {arguments[0]}: ") and said in told and told.count("\n") == 1


@pytest.mark.parametrize("name", ["view", "render"])
def test_help_is_quick(name: str) -> None:
    """A second on an idle machine; three leave room for a busy one. The heavy packages are not loaded."""
    code = (
        "import sys; from cambrian_gaze.cli.main import main\n"
        f"try: main(['gaze', {name!r}, '--help'])\n"
        "except SystemExit: print(sorted({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    start = time.monotonic()
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert told.stdout.splitlines()[-1] == "[]", told.stderr
    assert time.monotonic() - start < 3
