"""HTTP for `chat.py`: POST /v1/chat/completions (whole or as server-sent events), GET /v1/models, GET /health, and
POST /load_model, by which `transformers chat` asks whether the model is there.

For one machine and a few users: requests wait for each other. Bound to this machine unless told otherwise; there is no
authentication.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cambrian_gaze.models.serve.chat import ChatAnswer, ChatModel, ChatRequest, parse_request

logger = logging.getLogger(__name__)

MAX_BODY = 64 * 2**20
"""Largest request in bytes."""


class ChatServer(ThreadingHTTPServer):
    """Serves one model; `serve_forever` runs it, `shutdown` ends it."""

    daemon_threads = True

    def __init__(self, chat: ChatModel, host: str = "127.0.0.1", port: int = 8000, max_new_tokens: int = 128) -> None:
        self.chat, self.max_new_tokens = chat, max_new_tokens
        super().__init__((host, port), _Handler)


class _Refused(Exception):
    """A request that gets an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_GET(self) -> None:
        if self.path == "/health":
            self._json({"status": "ok"})
        elif self.path == "/v1/models":
            card = {"id": self.server.chat.name, "object": "model", "created": 0, "owned_by": "cambrian-gaze"}
            self._json({"object": "list", "data": [card]})
        else:
            self._error(404, f"no such address: {self.path}")

    def do_POST(self) -> None:
        try:
            body = self._body()
            if self.path == "/load_model":
                ready = {"status": "ready", "model": self._named(body), "cached": True}
                self._begin_events()
                self._event(ready)
                return
            request, prepared = self._chat(body)
        except _Refused as refused:
            self._error(refused.status, str(refused))
            return
        identity = f"chatcmpl-{uuid.uuid4().hex}"
        try:
            if request.stream:
                self._stream(request, prepared, identity)
            else:
                self._json(self._whole(self.server.chat.answer(request, prepared), identity))
        except ConnectionError:
            logger.info("the client went away; its answer was ended")
            self.close_connection = True

    def _body(self) -> dict[str, Any]:
        if self.path not in ("/v1/chat/completions", "/load_model"):
            raise _Refused(404, f"no such address: {self.path}")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True
            raise _Refused(411, "a Content-Length is needed")
        if int(length) > MAX_BODY:
            self.close_connection = True
            raise _Refused(413, f"the request has {length} bytes, more than {MAX_BODY}")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except ValueError as error:
            raise _Refused(400, f"the request is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise _Refused(400, "the request must be a JSON object")
        return body

    def _named(self, body: dict[str, Any]) -> str:
        """The model's name, which the request must have right where it gives one."""
        asked, own = body.get("model"), self.server.chat.name
        if asked not in (None, own):
            raise _Refused(404, f"the model {asked!r} is not served here; {own!r} is")
        return own

    def _chat(self, body: dict[str, Any]) -> tuple[ChatRequest, dict[str, Any]]:
        self._named(body)
        try:
            request = parse_request(body, self.server.max_new_tokens)
            return request, self.server.chat.prepare(request)
        except ValueError as error:
            raise _Refused(400, str(error)) from error

    def _begin_events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")  # the end of the events is the end of the connection
        self.end_headers()
        self.close_connection = True

    def _event(self, content: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())
        self.wfile.flush()

    def _stream(self, request: ChatRequest, prepared: dict[str, Any], identity: str) -> None:
        self._begin_events()

        def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            self._event(self._frame(identity, "chat.completion.chunk") | {"choices": [choice]} | more)

        event({"role": "assistant", "content": ""})
        answer = self.server.chat.answer(request, prepared, lambda text: event({"content": text}))
        event({}, answer.finish_reason, usage=_usage(answer), gaze=answer.gaze)
        self.wfile.write(b"data: [DONE]\n\n")

    def _whole(self, answer: ChatAnswer, identity: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text}
        choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
        more = {"choices": [choice], "usage": _usage(answer), "gaze": answer.gaze}
        return self._frame(identity, "chat.completion") | more

    def _frame(self, identity: str, kind: str) -> dict[str, Any]:
        return {"id": identity, "object": kind, "created": int(time.time()), "model": self.server.chat.name}

    def _error(self, status: int, message: str) -> None:
        self._json({"error": {"message": message, "type": "invalid_request_error", "code": status}}, status)

    def _json(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        logger.info(format, *args)


def _usage(answer: ChatAnswer) -> dict[str, int]:
    total = answer.prompt_tokens + answer.completion_tokens
    tokens = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
    return tokens | {"total_tokens": total}
