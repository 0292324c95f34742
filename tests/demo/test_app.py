"""The demo's server: what it gives out, and to whom."""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cambrian_gaze.demo.talk import Talker
from tests.demo._page import serving

pytest.importorskip("gradio", reason="no Gradio: the demo was not started (pip install 'cambrian-gaze[demo]')")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address(talker: Talker) -> Iterator[str]:
    with serving(talker) as address:
        yield address


def get(url: str, body: bytes | None = None, kind: str = "") -> tuple[int, bytes]:
    request = urllib.request.Request(url, body, {"Content-Type": kind} if kind else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def upload(address: str, content: bytes) -> tuple[int, bytes]:
    edge = "edge"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="x.png"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{edge}--\r\n".encode()
    return get(f"{address}gradio_api/upload", body, f"multipart/form-data; boundary={edge}")


@pytest.mark.parametrize("path", ["/etc/passwd", ROOT / "pyproject.toml", Path.home() / ".bashrc", "../../etc/passwd"])
def test_no_file_of_this_machine_is_given_out(address: str, path: Path | str) -> None:
    for route in ("file=", "file/"):
        assert get(f"{address}gradio_api/{route}{path}")[0] in (403, 404)


def test_uploads_come_back_and_large_ones_are_refused(address: str, talker: Talker) -> None:
    status, told = upload(address, b"small")
    assert status == 200 and get(f"{address}gradio_api/file={json.loads(told)[0]}") == (200, b"small")
    assert upload(address, b"0" * (talker.limits.max_file + 1000))[0] == 413


def test_the_page_asks_nobody_else(address: str) -> None:
    status, page = get(address)
    config = json.loads(get(f"{address}config")[1])
    assert status == 200 and b"fonts.googleapis" not in page
    assert not config["analytics_enabled"] and not config.get("is_space")


def test_a_port_in_use_is_said(talker: Talker) -> None:
    from cambrian_gaze.demo.app import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match=str(taken.getsockname()[1])):
            serve(talker, port=taken.getsockname()[1], block=False)


def test_it_listens_to_this_machine_alone(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
