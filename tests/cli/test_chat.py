"""The terminal's chat, through a pseudo-terminal and through a pipe."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cambrian_gaze.cli.main import main
from cambrian_gaze.viz.trace import Trace

COMMAND = [sys.executable, "-m", "cambrian_gaze.cli.main", "chat"]


class Terminal:
    """A process on a pseudo-terminal of 80 characters."""

    def __init__(self, *words: str, **environment: str) -> None:
        self._own, other = pty.openpty()
        own = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLORTERM")}
        self._process = subprocess.Popen(
            [*COMMAND, *words],
            stdin=other,
            stdout=other,
            stderr=subprocess.DEVNULL,
            env=own | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"} | environment,
            start_new_session=True,
        )
        os.close(other)
        self.text, self._read = "", 0

    def until(self, told: str) -> str:
        """What came since the last time, up to these words."""
        start, end = self._read, time.monotonic() + 60
        while told not in self.text[start:]:
            assert time.monotonic() < end, self.text[-2000:]
            if select.select([self._own], [], [], 1.0)[0]:
                self.text += os.read(self._own, 1 << 16).decode(errors="replace")
        self._read = self.text.index(told, start) + len(told)
        return self.text[start : self._read]

    def type(self, line: str) -> None:
        os.write(self._own, line.encode() + b"\n")

    def end(self) -> int:
        os.write(self._own, b"\x04")
        status = self._process.wait(60)
        os.close(self._own)
        return status


@pytest.mark.parametrize(
    ("environment", "colour"),
    [
        ({"COLORTERM": "truecolor"}, r"\x1b\[38;2;\d+;\d+;\d+;48;2;"),
        pytest.param({}, r"\x1b\[38;5;\d+;48;5;\d+m", marks=pytest.mark.slow),
    ],
)
def test_a_chat_in_a_terminal(
    model_dir: Path, page: Path, tmp_path: Path, environment: dict[str, str], colour: str
) -> None:
    terminal = Terminal("--model", str(model_dir), "--image", str(page), "--max_new_tokens", "4", **environment)
    assert re.search(colour + r"\d*", terminal.until("> ")) and "▀" in terminal.text
    terminal.type("What is it?")
    said = terminal.until("first token after")
    assert "looks at image 1" in said and re.search(r"\x1b\[\d+A\r\x1b\[J", said), "words are not drawn as they come"
    terminal.until("> ")
    terminal.type("/k 3")
    terminal.until("top_k 3")
    terminal.type("/hide 0 1 99")
    terminal.until("'99' is no region; there are 16")
    terminal.type("/hide 0 1")
    terminal.until("hidden [0, 1]")
    terminal.type("/again")
    terminal.until("first token after")
    terminal.until("> ")
    terminal.type(f"/save {tmp_path / 'x.safetensors'}")
    terminal.until("x.safetensors")
    terminal.until("> ")
    assert terminal.end() == 0
    trace = Trace.load(tmp_path / "x.safetensors")
    assert trace.steering == {"hidden": [0, 1], "forced": []} and trace.gaze["image"]["top_k"] == 3


def test_a_chat_through_a_pipe_is_plain(model_dir: Path, page: Path) -> None:
    lines = f"/image {page}\nWhat?\n/regions\n/wrong\n/save x.txt\n/new\n/again\n/quit\nnot reached\n"
    told = subprocess.run(
        [*COMMAND, "--model", str(model_dir), "--max_new_tokens", "3"],
        input=lines,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"COLORTERM": "truecolor"},
    )
    assert told.returncode == 0, told.stderr
    assert "\x1b" not in told.stdout and "▀" not in told.stdout
    assert "first token after" in told.stdout and re.search(r"^12 13 14 15$", told.stdout, re.MULTILINE)
    for line in ("! no command /wrong; /help lists them", "! /save takes a name", "! ask something first"):
        assert line in told.stdout
    assert "not reached" not in told.stdout


def test_what_cannot_be_shown_is_said(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--model", str(model_dir), "--image", str(tmp_path / "none.png")]) == 2
    assert "none.png" in capsys.readouterr().err
