"""A tiny untrained model that talks, a picture and a video. What it answers means nothing; it is the same each time."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.data.media.frame_sampling import FrameSampling
from cambrian_gaze.demo.limits import Limits
from cambrian_gaze.demo.talk import Talker
from tests.viz._browser import browser  # noqa: F401

SHORT = Limits(max_new_tokens=8, frames=FrameSampling(video_fps=4.0, video_max_frames=4, video_timeout=0))


@pytest.fixture(scope="session")
def talker() -> Talker:
    torch.manual_seed(0)
    model = CambrianGazeForConditionalGeneration.from_preset("tiny").eval()
    return Talker(model, CambrianGazeProcessor.from_preset("tiny"), "tiny", SHORT)


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "a picture.png"
    Image.radial_gradient("L").convert("RGB").resize((96, 64)).save(path)
    return path


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second, four frames of 64x48 pixels."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("demo") / "a video.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in (20, 90, 160, 230):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), (shade, 255 - shade, 80)))
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path
