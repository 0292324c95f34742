"""The chat endpoint on uvicorn: `ChatServer`.

For one machine and a few users: requests wait for each other. Bound to this machine unless told otherwise; there is no
authentication.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from typing import Any

from cambrian_gaze.extras import require
from cambrian_gaze.serving.chat import ChatModel
from cambrian_gaze.serving.jobs import Defaults, Jobs
from cambrian_gaze.serving.limits import MAX_BODY, Limits

__all__ = ["MAX_BODY", "ChatServer"]


class ChatServer:
    """Serves one model; `serve_forever` runs it, `shutdown` ends it.

    Args:
        port: 0 takes a free one; `server_address` tells it.
        max_new_tokens: longest answer of requests that do not say.
        limits: of memory and time.
        defaults: what requests get that do not say; without it, as `max_new_tokens` says and greedy.
        origins: web pages that may ask from a browser.

    Raises: OSError where the address cannot be had; ImportError without the extra `serve`.
    """

    def __init__(
        self,
        chat: ChatModel,
        host: str = "127.0.0.1",
        port: int = 8000,
        max_new_tokens: int = 128,
        *,
        limits: Limits | None = None,
        defaults: Defaults | None = None,
        origins: Sequence[str] = (),
    ) -> None:
        for module in ("starlette", "uvicorn"):
            require(module, "serve")
        self.chat, self.limits, self._origins = chat, limits or Limits(), origins
        self._defaults = defaults or Defaults(max_new_tokens)
        self._socket = _listening(host, port)
        self.server_address: tuple[Any, ...] = self._socket.getsockname()
        self._stop, self._idle = threading.Event(), threading.Event()
        self._idle.set()

    def serve_forever(self) -> None:
        """Answer requests until `shutdown` is called, or the process is interrupted (SIGINT, SIGTERM): then what waits
        and runs is ended with an error, and the signal goes its way."""
        import uvicorn

        from cambrian_gaze.serving.app import build_app
        from cambrian_gaze.serving.protocol import patient_protocol

        self._idle.clear()
        jobs = Jobs(self.chat, self.limits, self._defaults)
        stop = self._stop

        class Server(uvicorn.Server):
            async def on_tick(self, counter: int) -> bool:
                return await super().on_tick(counter) or stop.is_set()

            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                jobs.close()
                await super().shutdown(sockets)

        config = uvicorn.Config(
            build_app(jobs, self._origins),
            http=patient_protocol(self.limits),
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="error",
            server_header=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=5,
            limit_concurrency=self.limits.max_connections,
            h11_max_incomplete_event_size=64 * 2**10,
        )
        try:
            Server(config).run(sockets=[self._socket])
        finally:
            self._idle.set()

    def shutdown(self) -> None:
        """End `serve_forever`, which runs in another thread."""
        self._stop.set()
        self._idle.wait(30)

    def server_close(self) -> None:
        """Let go of the address."""
        self._socket.close()


def _listening(host: str, port: int) -> socket.socket:
    """Raises OSError that names the address."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise OSError(f"cannot listen at {host}, port {port}: {error.strerror or error}") from error
