"""The child that decodes: hangs, crashes, memory, workers of a DataLoader, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from cambrian_gaze.data.media import isolated
from cambrian_gaze.data.media.frame_sampling import DECODERS, FrameSampling
from cambrian_gaze.data.media.image_files import MediaError
from cambrian_gaze.data.media.video import count_frames, load_frames
from tests.data._videos import number_of, write_video

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path):
    write_video(tmp_path / "good.mp4", [i / 30 for i in range(120)])
    return tmp_path


@pytest.fixture
def sabotage(folder, monkeypatch):
    """Makes the decoder run the given code when it opens bad.mp4 (see `_sabotaged`)."""

    def install(code: str) -> None:
        isolated_stop()
        monkeypatch.setenv("SABOTAGE", code)
        monkeypatch.setattr(isolated, "_CHILD", "tests.data._sabotaged")
        (folder / "bad.mp4").write_bytes((folder / "good.mp4").read_bytes())

    yield install
    isolated_stop()


def isolated_stop() -> None:
    if child := isolated._CHILDREN.pop(os.getpid(), None):
        child.stop()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("backend", DECODERS)
def test_the_same_frames_as_in_this_process(folder, backend):
    inside, child = (FrameSampling(2.0, video_backend=backend, video_timeout=t) for t in (0, 60))
    a, b = (load_frames("good.mp4", folder, sampling) for sampling in (inside, child))
    assert [number_of(frame) for frame in b] == [0, 15, 30, 45, 60, 75, 90, 105]
    assert all(np.array_equal(one, other) for one, other in zip(a, b, strict=True))
    assert count_frames("good.mp4", folder, child) == 8


def test_errors_come_back_as_they_are_and_the_child_goes_on(folder):
    (folder / "text.mp4").write_text("no film")
    with pytest.raises(MediaError, match="'text.mp4' cannot be decoded") as caught:
        load_frames("text.mp4", folder)
    assert caught.value.remedy
    child = isolated._CHILDREN[os.getpid()].pid
    with pytest.raises(MediaError, match="'good.mp4': the clip .end_frame -3. selects none"):
        load_frames("good.mp4", folder, clip={"end_frame": -3, "junk": object()})
    assert len(load_frames("good.mp4", folder)) == 4
    assert isolated._CHILDREN[os.getpid()].pid == child


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import time; time.sleep(60)", "'bad.mp4' was not decoded in 3 seconds. Remedy: .*--video_timeout"),
        ("import os; os.kill(os.getpid(), 11)", r"'bad.mp4' killed its decoder \(SIGSEGV"),
        ("import os; os.write(2, b'oh dear'); os._exit(7)", r"killed its decoder \(exit status 7: .*oh dear"),
        ("bytearray(7 << 30)", "'bad.mp4' needs more than 6 GiB to decode"),
    ],
    ids=["hang", "crash", "exit", "memory"],
)
def test_a_decoder_that_hangs_or_dies_costs_one_video(folder, sabotage, code, reason):
    sabotage(code)
    sampling = FrameSampling(video_timeout=3)
    assert len(load_frames("good.mp4", folder, FrameSampling(video_timeout=60))) == 4
    start = time.monotonic()
    for read in (load_frames, count_frames):
        with pytest.raises(MediaError, match=reason):
            read("bad.mp4", folder, sampling)
    assert time.monotonic() - start < 30
    assert len(load_frames("good.mp4", folder, FrameSampling(video_timeout=60))) == 4


def test_an_interrupted_start_leaves_no_answer_behind(folder, monkeypatch):
    """Ctrl-C while the child starts, in a notebook that goes on: the next video must get frames of its own."""
    isolated_stop()
    receive = isolated._receive

    def interrupted(*args):
        monkeypatch.setattr(isolated, "_receive", receive)
        raise KeyboardInterrupt

    monkeypatch.setattr(isolated, "_receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_frames("good.mp4", folder)
    assert len(load_frames("good.mp4", folder)) == 4


class Films(Dataset):
    def __init__(self, folder, names):
        self.folder, self.names = folder, names

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        try:
            frames = load_frames(self.names[index], self.folder, FrameSampling(video_timeout=4))
            numbers = [number_of(frame) for frame in frames]
        except MediaError as error:
            numbers = [-1 if "not decoded in" in error.reason else -2]
        return isolated._CHILDREN[os.getpid()].pid, *numbers


def test_in_workers_of_a_data_loader_and_none_survives_it(folder, sabotage):
    """Workers are daemons, forked from a process that has a child of its own; the children end with them."""
    sabotage("import time; time.sleep(60)")
    load_frames("good.mp4", folder)
    own = isolated._CHILDREN[os.getpid()].pid
    names = ["good.mp4", "bad.mp4", "good.mp4", "good.mp4"]
    loader = DataLoader(Films(folder, names), batch_size=None, num_workers=2, multiprocessing_context="fork")
    rows = [list(row) for row in loader]
    assert [row[1:] for row in rows] == [[0, 30, 60, 90], [-1], [0, 30, 60, 90], [0, 30, 60, 90]]
    children = {row[0] for row in rows} - {None}
    assert own not in children and len(children) >= 2
    assert len(load_frames("good.mp4", folder)) == 4 and isolated._CHILDREN[os.getpid()].pid == own
    deadline = time.monotonic() + 15
    while any(alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in children if alive(pid)]


def test_a_killed_process_takes_its_child_with_it(folder):
    code = (
        "import os, signal\n"
        "from cambrian_gaze.data.media import isolated\n"
        "from cambrian_gaze.data.media.video import load_frames\n"
        f"load_frames('good.mp4', {str(folder)!r})\n"
        "print(isolated._CHILDREN[os.getpid()].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert result.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 15
    while alive(int(result.stdout)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(int(result.stdout))


def test_a_child_that_cannot_start_is_no_fault_of_the_video(folder, monkeypatch):
    isolated_stop()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="the process that decodes videos does not start: exit status 1"):
        load_frames("good.mp4", folder)


def test_what_lies_in_the_working_folder_is_not_run(folder, monkeypatch):
    for name in ("runpy", "json", "numpy", "resource", "cambrian_gaze"):
        (folder / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nraise SystemExit(9)")
    monkeypatch.chdir(folder)
    isolated_stop()
    try:
        assert count_frames("good.mp4", folder, FrameSampling(2.0, video_timeout=60)) == 8
    finally:
        isolated_stop()
    assert not (folder / "ran").exists()
