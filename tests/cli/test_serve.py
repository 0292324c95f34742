import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from cambrian_gaze.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "runs/nothing"], "no such folder: runs/nothing"),
        (["--device", "cuda:99"], "--device cuda:99: this machine has"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["--temperature", "0", "--top_p", "0.9"], "no effect at --temperature 0"),
        (["--keep_ratio", "2"], "keep_ratio"),
    ],
)
def test_what_is_given_wrongly_is_said_in_one_line(
    model_dir: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--model", str(model_dir), "--port", "0", *arguments]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("cambrian-gaze serve: ") and said in line


@pytest.mark.parametrize("port", ["65536", "-1", "http"])
def test_a_port_is_a_port(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--model", "m", f"--port={port}"])
    assert "no port from 0 to 65535" in capsys.readouterr().err


@pytest.mark.slow
def test_it_says_where_it_is_and_ends_on_an_interrupt(model_dir: Path) -> None:
    command = [sys.executable, "-m", "cambrian_gaze.cli.main", "serve", "--model", str(model_dir), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as server:
        try:
            line = server.stdout.readline()
            address = re.fullmatch(rf"'{model_dir.name}' at (http://127\.0\.0\.1:\d+)/v1 \(Ctrl-C ends it\)\n", line)[1]
            with urllib.request.urlopen(f"{address}/health", timeout=30) as answer:
                assert json.loads(answer.read())["status"] == "ok"
            server.send_signal(signal.SIGINT)
            assert server.stdout.read() == "ended\n" and server.wait(30) == 0
            assert "Traceback" not in server.stderr.read()
        finally:
            server.kill()
