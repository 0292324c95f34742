"""`cambrian-gaze gaze render --figure`."""

from pathlib import Path

import pytest
from PIL import Image

from cambrian_gaze.cli.main import main
from tests.viz._traces import noise
from tests.viz.figures._three import dense_trace, evicted_trace, gaze_trace


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of dense, gaze, evicted and video."""
    folder = tmp_path_factory.mktemp("traces")
    made = {"dense": dense_trace(), "gaze": gaze_trace(), "evicted": evicted_trace([1, 2])}
    made["video"] = gaze_trace(pictures=[[noise(60, 40, s) for s in range(4)]])
    for name, trace in made.items():
        trace.save(folder / f"{name}.safetensors")
    return folder


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("gaze", "dense"), ("attention", "--words", "cat", "grass", "--scale", "common", "--layers", "1")),
        (("evicted", "gaze"), ("eviction", "--truth", "A dog", "--columns", "2")),
        (("video",), ("video", "--tokens", "1", "--frames", "0", "3", "--video_fps", "2", "--top", "2")),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_each_figure_in_each_format(traces: Path, names, options, suffix: str, tmp_path: Path, capsys) -> None:
    files = [str(traces / f"{name}.safetensors") for name in names]
    target = tmp_path / f"x.{suffix}"
    assert main(["gaze", "render", *files, "--figure", *options, "--side", "120", "-o", str(target)]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    if suffix == "png":
        with Image.open(target) as image:
            assert image.width == 2 * 120 + 3 * 4  # two panels, and gaps


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (["gaze"], ["--figure", "attention"], "takes one dense trace and one gaze trace, but of these traces gaze is"),
        (["gaze"], ["--figure", "video", "--truth", "x"], "--figure video has no --truth; it has --words, --tokens"),
        (["gaze"], ["--figure", "eviction", "--by", "head"], "--figure eviction has no --by; it has"),
        (["gaze"], ["--words", "cat"], "a picture without --figure has no --words; it has --by, --tokens"),
        (["gaze"], ["--figure", "video"], "gaze is about no video"),
        (["video"], ["--figure", "video", "-o", "x.gif"], "x.gif: a figure of several traces and texts is one picture"),
    ],
)
def test_what_is_given_wrongly_is_said_in_one_line(traces: Path, names, options, said: str, tmp_path, capsys) -> None:
    files = [str(traces / f"{name}.safetensors") for name in names]
    assert main(["gaze", "render", *files, "-o", str(tmp_path / "x.png"), *options]) == 2
    told = capsys.readouterr().err
    assert told.startswith("cambrian-gaze gaze render: ") and said in told and told.count("\n") == 1
