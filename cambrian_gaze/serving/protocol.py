"""uvicorn's HTTP protocol with the time limits that it lacks: for a request's head, for a body that is no longer
wanted, and for answers that nobody reads. What is no HTTP is answered as every other error is."""

from __future__ import annotations

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from cambrian_gaze.serving.limits import Limits
from cambrian_gaze.serving.refusal import Refused, error_body


def patient_protocol(limits: Limits) -> type[H11Protocol]:
    """The protocol class for `uvicorn.Config(http=…)`."""

    class PatientProtocol(_PatientProtocol):
        limits_ = limits

    return PatientProtocol


class _PatientProtocol(H11Protocol):
    limits_: Limits
    _read_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _heard = False
    """Whether a part of the next request has come."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop(self._read_timer, self._write_timer)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:  # a head has come
            self._stop(self._read_timer)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._expect_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop(self._write_timer)
        self._write_timer = self.loop.call_later(self.limits_.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop(self._write_timer)
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        self._heard = True
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP."""
        self._refuse(400, msg)

    def _refuse(self, status: int, message: str) -> None:
        """Answer in place of the application, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else an answer is on its way
            data = json.dumps(error_body(Refused(message, status=status))).encode()
            headers = [("content-type", "application/json"), ("content-length", str(len(data)))]
            headers.append(("connection", "close"))
            for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=data), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()

    def _expect_head(self) -> None:
        self._stop(self._read_timer)
        self._heard = False
        self._read_timer = self.loop.call_later(self.limits_.header_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        if self._heard:
            self._refuse(408, "the rest of the request did not come in time")
        else:
            self.transport.close()

    @staticmethod
    def _stop(*timers: asyncio.TimerHandle | None) -> None:
        for timer in timers:
            if timer is not None:
                timer.cancel()
