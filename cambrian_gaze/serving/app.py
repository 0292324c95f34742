"""HTTP for `jobs.py`: POST /v1/chat/completions (whole or as server-sent events), GET /v1/models, GET /health, and
POST /load_model, by which `transformers chat` asks whether the model is there. Every request is answered, errors in
OpenAI's form."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from cambrian_gaze.serving.chat import ChatAnswer
from cambrian_gaze.serving.fields import read_json
from cambrian_gaze.serving.jobs import Job, Jobs
from cambrian_gaze.serving.refusal import Refused, error_body

logger = logging.getLogger(__name__)

_EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


def build_app(jobs: Jobs, origins: Sequence[str] = ()) -> Starlette:
    """The ASGI application.

    Args:
        origins: web pages that may ask from a browser (CORS), such as "http://localhost:3000".
    """
    server = _Endpoints(jobs)
    routes = [
        Route("/v1/chat/completions", _answering(server.completions), methods=["POST"]),
        Route("/v1/models", _answering(server.models), methods=["GET"]),
        Route("/v1/models/{name:path}", _answering(server.model), methods=["GET"]),
        Route("/load_model", _answering(server.load_model), methods=["POST"]),
        Route("/health", _answering(server.health), methods=["GET"]),
    ]
    cors = Middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"])
    app = Starlette(
        routes=routes,
        middleware=[cors] if origins else [],
        exception_handlers={HTTPException: _no_such_address},
    )
    app.router.redirect_slashes = False
    return app


class _Endpoints:
    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self._created = int(time.time())

    async def completions(self, request: Request) -> Response:
        if len(self.jobs.live) >= self.jobs.limits.max_waiting:
            raise Refused(
                f"{len(self.jobs.live)} requests are waiting already", status=503, code="overloaded", retry_after=5
            )
        body = await self._body(request)
        job = self.jobs.start(body)
        del body
        identity = f"chatcmpl-{uuid.uuid4().hex}"
        try:
            checked = await _while_there(request.receive, job.request)
            if checked.stream:
                return _Events(job, self._frame(identity, "chat.completion.chunk"), checked.include_usage)
            answer = await _while_there(request.receive, job.answer)
        except ClientDisconnect:
            job.give_up()
            raise
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        more = {"choices": [choice], "usage": _usage(answer), "gaze": answer.gaze}
        return _json(self._frame(identity, "chat.completion") | more)

    async def models(self, request: Request) -> Response:
        return _json({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        self.jobs.named({"model": request.path_params["name"]})
        return _json(self._card())

    async def load_model(self, request: Request) -> Response:
        body = await self._body(request)
        try:
            name = self.jobs.named(read_json(body))
        finally:
            self.jobs.held -= len(body)
        ready = {"status": "ready", "model": name, "cached": True}
        return Response(_event(ready), media_type="text/event-stream")

    async def health(self, request: Request) -> Response:
        return _json({"status": "ok", "model": self.jobs.chat.name, "requests": len(self.jobs.live)})

    async def _body(self, request: Request) -> bytes:
        """The body, bounded in bytes and time; its bytes are added to `held`."""
        limits, jobs = self.jobs.limits, self.jobs
        told = request.headers.get("content-length", "0")
        if told.isdecimal() and int(told) > limits.max_body:
            raise _too_large(limits.max_body)
        end = time.monotonic() + limits.body_seconds
        chunks: list[bytes] = []
        size = 0
        try:
            while True:
                pause = min(limits.body_pause, max(0.0, end - time.monotonic()))
                message = await asyncio.wait_for(request.receive(), pause)
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                jobs.held += len(chunks[-1])
                if size > limits.max_body:
                    raise _too_large(limits.max_body)
                if jobs.held > limits.max_held:
                    raise Refused(
                        f"the server holds {limits.max_held:,} bytes of requests already",
                        status=503,
                        code="overloaded",
                        retry_after=5,
                    )
                if not message.get("more_body", False):
                    return b"".join(chunks)
        except asyncio.TimeoutError:
            jobs.held -= size
            reason = "the rest of the request did not come in time"
            raise Refused(reason, status=408, code="request_timeout") from None
        except BaseException:
            jobs.held -= size
            raise

    def _card(self) -> dict[str, Any]:
        return {"id": self.jobs.chat.name, "object": "model", "created": self._created, "owned_by": "cambrian-gaze"}

    def _frame(self, identity: str, kind: str) -> dict[str, Any]:
        return {"id": identity, "object": kind, "created": int(time.time()), "model": self.jobs.chat.name}


class _Events(Response):
    """An answer as it comes. An error is an event of its own, and nothing follows it."""

    def __init__(self, job: Job, frame: dict[str, Any], include_usage: bool) -> None:
        self.status_code, self.background = 200, None
        self.raw_headers = list(_EVENTS)
        self._job, self._frame, self._include_usage = job, frame, include_usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        job = self._job

        async def put(data: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await put(self._chunk({"role": "assistant", "content": ""}))
            while (text := await self._piece(receive)) is not None:
                await put(self._chunk({"content": text}))
            try:
                answer = job.answer.result()
            except Exception as error:
                await put(_event(error_body(error)), more=False)
                return
            await put(self._chunk({}, answer.finish_reason, gaze=answer.gaze))
            if self._include_usage:
                await put(_event(self._frame | {"choices": [], "usage": _usage(answer)}))
            await put(b"data: [DONE]\n\n", more=False)
        except ClientDisconnect:
            logger.info("the client went away; its answer was ended")
        finally:
            if not job.answer.done():
                job.give_up()

    async def _piece(self, receive: Receive) -> str | None:
        piece = asyncio.ensure_future(self._job.pieces.get())
        try:
            return await _while_there(receive, piece)
        finally:
            piece.cancel()

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event(self._frame | {"choices": [choice]} | more)


async def _while_there(receive: Callable[[], Awaitable[Message]], wanted: asyncio.Future[Any]) -> Any:
    """What `wanted` gives. Raises ClientDisconnect where the client goes away before."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({wanted, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not wanted.done():
            raise ClientDisconnect
        return wanted.result()
    finally:
        watch.cancel()


def _answering(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint, its errors as answers."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Refused as error:
            return _refused(error)
        except ClientDisconnect:
            return Response(status_code=204)  # nobody reads it
        except Exception as error:
            logger.exception("%s %s", request.method, request.url.path)
            return _json(error_body(error), 500)

    return answer


async def _no_such_address(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    known = "POST /v1/chat/completions, GET /v1/models, GET /health"
    return _refused(Refused(f"{request.method} {request.url.path} is not served here; {known} are", status=status))


def _too_large(limit: int) -> Refused:
    return Refused(f"the request has more than {limit:,} bytes", status=413, code="request_too_large")


def _refused(error: Refused) -> Response:
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return _json(error_body(error), error.status, headers)


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """ASCII, so that whatever a client sent can be said again."""
    return Response(json.dumps(content), status, headers, media_type="application/json")


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def _usage(answer: ChatAnswer) -> dict[str, int]:
    total = answer.prompt_tokens + answer.completion_tokens
    tokens = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
    return tokens | {"total_tokens": total}
