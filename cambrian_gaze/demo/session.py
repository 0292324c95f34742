"""One visitor: the conversation, what may be looked at, and what the page shows of it. Nothing here knows Gradio."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cambrian_gaze.demo.arrivals import Stop
from cambrian_gaze.demo.compare import Way, compare
from cambrian_gaze.demo.conversation import Conversation, Steering
from cambrian_gaze.demo.talk import Progress, Talker
from cambrian_gaze.viz.trace import Trace
from cambrian_gaze.viz.trace_data import TraceItem
from cambrian_gaze.viz.viewer import viewer_data, write_viewer


@dataclass
class Session:
    """What is kept of a visitor."""

    conversation: Conversation = field(default_factory=Conversation)
    steering: Steering = field(default_factory=Steering)
    items: list[TraceItem] = field(default_factory=list)
    """The pictures, encoded once."""
    chat: list[dict[str, Any]] = field(default_factory=list)
    """As the page shows it."""
    trace: Trace | None = None
    """Of the last answer."""
    folder: str | None = None
    """Where its downloads lie; made when there is something to lay there."""
    stop: Stop | None = None
    """Of the answer in work."""
    sent: int = 0
    """Pictures that the page has been sent."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        """Gradio copies what a session begins with: an empty one."""
        return Session()

    def take(self, talker: Talker, text: str, paths: list[str]) -> bool:
        """Add what a visitor sends; whether there is a question to be answered. Raises ValueError, having changed
        nothing."""
        talk = self.conversation
        before = len(talk.visuals), len(talk.messages), len(self.chat)
        try:
            for path in paths:
                talk.look_at(path, talker.limits)
                self.chat.append({"role": "user", "content": {"path": str(path)}})
            if paths:
                self.items = talker.items(talk)
            if not text.strip():
                if not paths:
                    raise ValueError("write a question, or add a picture or a video")
                return False
            talk.ask(text, talker.limits)
            self.chat.append({"role": "user", "content": text})
            return True
        except (ValueError, OSError):
            del talk.visuals[before[0] :], talk.sources[before[0] :], talk.messages[before[1] :], self.chat[before[2] :]
            self.items = self.items[: before[0]]
            raise

    def steer(self, top_k: int | None, hidden: list[int], forced: list[int]) -> None:
        """What the model may look at from now on."""
        self.steering = Steering(top_k, frozenset(map(int, hidden)), frozenset(map(int, forced)))

    def answer(self, talker: Talker) -> Iterator[Progress]:
        """Answer the last question, or answer it again. Raises ValueError; then a question that was never answered is
        forgotten."""
        again = self.conversation.reopen()
        if not again:
            raise ValueError("ask something first")
        self.stop = Stop()
        last: Progress | None = None
        known = len(self.chat)
        said = f"[{self._differs(talker)}] " if self.chat[-1]["role"] == "assistant" else ""
        try:
            for last in talker.answer(self.conversation, self.steering, self.items, stop=self.stop):
                self.trace = last.trace
                self.chat[known:] = [{"role": "assistant", "content": said + (last.text or "…")}]
                yield last
        finally:
            if last is not None:
                self.chat[known:] = [{"role": "assistant", "content": said + (last.text or "(nothing)")}]
                self.conversation.answered(last.text)
            else:
                self.conversation.withdraw()
                if self.chat and self.chat[-1]["role"] == "user":
                    self.chat.pop()

    def _differs(self, talker: Talker) -> str:
        """What an answer to the same question was given with."""
        steering, count = self.steering.within(len(talker.boxes(self.conversation))), "{} region{} {}".format
        parts = [f"K = {steering.top_k or talker.top_k}"]
        for regions, what in ((steering.hidden, "hidden"), (steering.forced, "left")):
            if regions:
                parts.append(count(len(regions), "" if len(regions) == 1 else "s", what))
        return ", ".join(parts)

    def compare(self, talker: Talker) -> Iterator[list[Way]]:
        """Answer the last question in three ways, beside the chat. Raises ValueError."""
        talk = Conversation(list(self.conversation.messages), self.conversation.visuals, self.conversation.sources)
        if not talk.reopen():
            raise ValueError("ask something first")
        self.stop = Stop()
        yield from compare(talker, talk, self.steering, self.items, self.stop)

    def halt(self) -> None:
        """End the answer in work at its next token."""
        if self.stop is not None:
            self.stop.set()

    def forget(self) -> None:
        """Begin anew."""
        self.halt()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.__dict__.update(Session().__dict__)

    def shown(self, talker: Talker, follow: bool = False) -> dict[str, Any] | None:
        """The message for the viewer's page: see `assets/viewer/host.js`. Pictures go with it when they are new."""
        if not self.items and self.trace is None:
            return None
        trace = self.trace if self.trace is not None and len(self.trace.items) == len(self.items) else None
        trace = talker.bare(self.conversation, self.items) if trace is None else trace
        new = self.sent != len(self.items)
        self.sent = len(self.items)
        return {"gaze": "show", "data": viewer_data(trace, pictures=new), "follow": follow}

    def files(self, place: Path) -> tuple[str, str] | None:
        """Paths of the last answer's trace and of its page, written below `place`; None before there is one."""
        if self.trace is None or not self.trace.tokens:
            return None
        if self.folder is None:
            self.folder = tempfile.mkdtemp(dir=place, prefix="answer-")
        folder = Path(self.folder)
        trace = self.trace.save(folder / "gaze.safetensors")
        return str(trace), str(write_viewer(folder / "gaze.html", self.trace))


def summary(last: Progress) -> str:
    """An answer's cost in one line."""
    counts = [] if last.trace is None or not last.trace.tokens else last.trace.attended.reshape(-1, 3).mean(0).tolist()
    entries = (
        [f"{counts[0]:.0f} visual, {counts[1]:.0f} context, {counts[2]:.0f} text entries a query"] if counts else []
    )
    step = last.times.per_token
    times = [f"first token after {1000 * last.times.first:.0f} ms"]
    times += [] if step is None else [f"{1000 * step:.0f} ms a token, drawing included"]
    return " · ".join([*entries, *times])
