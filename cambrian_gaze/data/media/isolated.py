"""Decodes video files in a child process that can be killed: a decoder that hangs or crashes costs one video.

One child for each process that asks, started when the first video file is read, started again after it was killed.
Pipes and sockets alone, no `multiprocessing`: the workers of a DataLoader may not have such children. Frames come
one by one, so that the child never holds more than its decoder and one frame.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cambrian_gaze.children import OWN_MODULES
from cambrian_gaze.data.media.clips import CLIP_KEYS
from cambrian_gaze.data.media.decoder_notes import note_decoder
from cambrian_gaze.data.media.decoders import count_in_file, frames_of_file
from cambrian_gaze.data.media.frame_sampling import FrameSampling
from cambrian_gaze.data.media.image_files import MachineError, MediaError

_MEMORY = 6 * 2**30
"""Address space of a child in bytes; a decoder that wants more fails, and takes nothing from the training process."""
_START_TIMEOUT = 120.0
_CHILD = "cambrian_gaze.data.media.isolated"
_START = f"""{OWN_MODULES}
import runpy
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""`python -m`, but without the working folder, which may be that of a stranger's videos."""
_HEADER = struct.Struct("<IQ")
"""Bytes of the JSON part, bytes of the pixels after it."""
_CHILDREN: dict[int, DecoderProcess] = {}
"""By process id: after a fork the copy of the parent's child is not used."""


def decode_in_child(
    name: str, real: str, sampling: FrameSampling, clip: Mapping[str, Any], max_pixels: int
) -> list[np.ndarray]:
    """`frames_of_file` in the child, within `sampling.video_timeout` seconds. Raises MediaError."""
    return _ask({"name": name, "real": real, "clip": dict(clip), "max_pixels": max_pixels}, sampling)


def count_in_child(name: str, real: str, sampling: FrameSampling, clip: Mapping[str, Any]) -> int:
    """`count_in_file` in the child, within `sampling.video_timeout` seconds. Raises MediaError."""
    return _ask({"name": name, "real": real, "clip": dict(clip)}, sampling)


def _ask(request: dict[str, Any], sampling: FrameSampling) -> Any:
    pid = os.getpid()
    if pid not in _CHILDREN:
        _CHILDREN[pid] = DecoderProcess()
        atexit.register(_CHILDREN[pid].stop)
    return _CHILDREN[pid].ask({**request, "sampling": asdict(sampling)}, sampling.video_timeout)


class DecoderProcess:
    """The child, seen from the process that asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._socket: socket.socket | None = None
        self._messages: Any = None

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return None if self._process is None else self._process.pid

    def ask(self, request: dict[str, Any], timeout: float) -> Any:
        """The frames or the count that a request asks for. Raises MediaError, also where the child hangs or dies."""
        with self._lock:
            try:
                if self._process is None or self._process.poll() is not None:
                    self._start()
                deadline = time.monotonic() + timeout
                self._socket.settimeout(timeout)
                _send(self._socket, {**request, "clip": _plain(request["clip"])})
                return self._answer(request["name"], deadline)
            except TimeoutError:
                self.stop()
                remedy = "re-encode it, delete the row, or raise --video_timeout"
                raise MediaError(f"{request['name']!r} was not decoded in {timeout:g} seconds", remedy) from None
            except (EOFError, ConnectionError):
                died = self._cause_of_death()
                remedy = "re-encode or download it again, or delete the row"
                raise MediaError(f"{request['name']!r} killed its decoder ({died})", remedy) from None
            except BaseException as error:
                if not isinstance(error, MediaError | MachineError):  # such as Ctrl-C: an answer is under way
                    self.stop()
                raise

    def stop(self) -> None:
        """Ends the child at once."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
            self._socket.close()
            self._messages.close()
            self._process = None

    def _start(self) -> None:
        self.stop()
        package = str(Path(__file__).resolve().parents[3])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._owner = os.getpid()
        self._messages = tempfile.TemporaryFile()  # closed by `stop`
        self._socket, other = socket.socketpair()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**22)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, _CHILD, str(other.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._messages,
                stderr=self._messages,
                env=environment,
                pass_fds=(other.fileno(),),
            )
        try:
            _receive(self._socket, time.monotonic() + _START_TIMEOUT)
        except (OSError, EOFError) as error:
            died = self._cause_of_death()
            raise RuntimeError(f"the process that decodes videos does not start: {died}") from error

    def _answer(self, name: str, deadline: float) -> Any:
        frames = []
        while True:
            message, pixels = _receive(self._socket, deadline)
            if "error" in message:
                raise MediaError(*message["error"])
            if "machine" in message:
                raise MachineError(message["machine"])
            if "instead" in message:
                note_decoder(name, message["instead"])
                return message.get("count", frames)
            frames.append(pixels.reshape(message["shape"]))

    def _cause_of_death(self) -> str:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None
        self._messages.seek(0)
        said = self._messages.read()[-300:].decode(errors="replace").strip()
        self.stop()
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"
        return f"{name}: {said}" if said else name


def _plain(clip: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record's extra keys that bears on frames; the rest need not fit into JSON."""
    return {key: clip[key] for key in CLIP_KEYS if key in clip}


def _send(connection: socket.socket, message: dict[str, Any], pixels: np.ndarray | None = None) -> None:
    text = json.dumps(message).encode("ascii")
    body = b"" if pixels is None else memoryview(np.ascontiguousarray(pixels)).cast("B")
    connection.sendall(_HEADER.pack(len(text), len(body)) + text)
    connection.sendall(body)


def _receive(connection: socket.socket, deadline: float | None = None) -> tuple[dict[str, Any], np.ndarray]:
    """One message and its pixels. Raises TimeoutError, and EOFError where the other side is gone."""

    def read(size: int) -> np.ndarray:
        data = np.empty(size, dtype=np.uint8)
        place = memoryview(data)
        while place:
            if deadline is not None:
                connection.settimeout(max(1e-3, deadline - time.monotonic()))
            got = connection.recv_into(place)
            if not got:
                raise EOFError
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError
            place = place[got:]
        return data

    text, pixels = _HEADER.unpack(read(_HEADER.size))
    return json.loads(bytes(read(text))), read(pixels)


def _serve(connection: socket.socket) -> None:
    """The child's side: answers requests until the other side is gone."""
    _send(connection, {"ready": True})
    while True:
        try:
            request, _ = _receive(connection)
        except (EOFError, ConnectionError):
            return
        _reply(connection, request)


def _reply(connection: socket.socket, request: dict[str, Any]) -> None:
    name, real, clip = request["name"], request["real"], request["clip"]
    sampling = FrameSampling(**request["sampling"])
    chosen: dict[str, str | None] = {}
    try:
        if "max_pixels" not in request:
            count = count_in_file(name, real, sampling, clip, chosen.__setitem__)
            _send(connection, {"count": count, "instead": chosen[name]})
            return
        for frame in frames_of_file(name, real, sampling, clip, request["max_pixels"], chosen.__setitem__):
            _send(connection, {"shape": frame.shape}, frame)
        _send(connection, {"instead": chosen[name]})
    except MachineError as error:
        _send(connection, {"machine": str(error)})
    except MediaError as error:
        _send(connection, {"error": [error.reason, error.remedy]})
    except MemoryError:
        reason = f"{name!r} needs more than {_MEMORY // 2**30} GiB to decode"
        _send(connection, {"error": [reason, "shrink the video, or delete the row"]})


def _end_with_parent() -> None:
    """A killed parent closes nothing where forked processes hold the same socket: so its id is watched, too."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def main() -> None:
    """Entry point of the child: the number of an inherited socket is its only argument."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = _MEMORY if hard == resource.RLIM_INFINITY else min(_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # for the process that asks
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        _serve(connection)


if __name__ == "__main__":
    main()
