"""Requests on their way to an answer: they wait their turn, and those whose client went away give it up.

The event loop stays free: decoding pictures and generating have a thread each, and one request at a time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from cambrian_gaze.data.media.frame_sampling import FrameSampling
from cambrian_gaze.serving.chat import GREEDY, ChatAnswer, ChatModel, ChatRequest, parse_request
from cambrian_gaze.serving.fields import read_json, shown
from cambrian_gaze.serving.limits import Limits
from cambrian_gaze.serving.refusal import Refused

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Defaults:
    """What requests get that do not say."""

    max_new_tokens: int = 128
    sampling: Mapping[str, Any] = field(default_factory=lambda: GREEDY)
    """Options of `generate`: see `parse_request`."""
    frames: FrameSampling = FrameSampling()
    """How videos become frames."""


class Job:
    """One request. Its futures hold the request once it is checked, and then the answer, or why there is none."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.request: asyncio.Future[ChatRequest] = loop.create_future()
        self.answer: asyncio.Future[ChatAnswer] = loop.create_future()
        self.pieces: asyncio.Queue[str | None] = asyncio.Queue()
        """Text as it comes; None at its end, whether there is an answer or an error."""
        self.halt = threading.Event()
        self.task: asyncio.Task[None] | None = None

    def give_up(self, error: Exception | None = None) -> None:
        """Free the slot: nothing is generated any more beyond the token in work."""
        self.halt.set()
        if error is not None:
            self._fail(error)
        if self.task is not None:
            self.task.cancel()

    def _fail(self, error: Exception) -> None:
        for future in (self.request, self.answer):
            if not future.done():
                future.set_exception(error)
                future.exception()  # read here: nobody may wait for it any more
        self.pieces.put_nowait(None)


class Jobs:
    """The requests of a server."""

    def __init__(self, chat: ChatModel, limits: Limits, defaults: Defaults) -> None:
        self.chat, self.limits, self.defaults = chat, limits, defaults
        self.live: set[Job] = set()
        self.held = 0
        """Bytes of requests that are held."""
        self._prepared = asyncio.Semaphore(limits.max_prepared)
        self._reader = ThreadPoolExecutor(1, "read")
        self._generator = ThreadPoolExecutor(1, "generate")

    def start(self, body: bytes) -> Job:
        """Begin with a request that was read whole; `held` goes down by its bytes once they are not needed."""
        job = Job()
        self.live.add(job)
        job.task = asyncio.create_task(self._run(job, [body]))
        job.task.add_done_callback(lambda _: self._end(job))
        return job

    def close(self) -> None:
        """End all that waits or runs, with the reason."""
        for job in list(self.live):
            job.give_up(Refused("the server is shutting down", status=503, code="shutting_down"))
        for threads in (self._reader, self._generator):
            threads.shutdown(wait=False, cancel_futures=True)

    def named(self, body: Any) -> str:
        """The model's name, which a request must have right where it gives one. Raises Refused."""
        asked, own = body.get("model") if isinstance(body, dict) else None, self.chat.name
        if asked not in (None, own):
            raise Refused(
                f"the model {shown(asked)} is not served here; {own!r} is", "model", status=404, code="model_not_found"
            )
        return own

    async def _run(self, job: Job, bodies: list[bytes]) -> None:
        loop = asyncio.get_running_loop()
        size = len(bodies[0])
        try:
            async with self._prepared:
                request, arguments = await loop.run_in_executor(self._reader, self._prepare, bodies)
                self.held -= size
                size = 0
                job.request.set_result(request)
                say = self._sayer(job, loop) if request.stream else None
                job.answer.set_result(
                    await loop.run_in_executor(self._generator, self.chat.answer, request, arguments, say, job.halt)
                )
                job.pieces.put_nowait(None)
        except Refused as error:
            job._fail(error)
        except Exception as error:
            logger.exception("a request could not be answered")
            job._fail(error)
        finally:
            self.held -= size

    def _prepare(self, bodies: list[bytes]) -> tuple[ChatRequest, dict[str, Any]]:
        body = read_json(bodies.pop())
        self.named(body)
        own = self.defaults
        request = parse_request(body, own.max_new_tokens, own.sampling, own.frames)
        return request, self.chat.prepare(request)

    @staticmethod
    def _sayer(job: Job, loop: asyncio.AbstractEventLoop) -> Callable[[str], None]:
        def say(text: str) -> None:
            loop.call_soon_threadsafe(job.pieces.put_nowait, text)

        return say

    def _end(self, job: Job) -> None:
        self.live.discard(job)
        job.halt.set()
        job._fail(RuntimeError("ended without an answer"))
