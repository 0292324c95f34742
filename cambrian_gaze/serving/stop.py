"""Stop texts: they end the answer and are no part of it, wherever in a token they begin."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, TextStreamer


def before_stop(text: str, stops: Sequence[str]) -> str:
    """The text up to where the first stop text begins; all of it where there is none."""
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(found)] if found else text


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of a text without a stop text may be the beginning of one."""
    longest = min(len(text), max(map(len, stops), default=1) - 1)
    return next((n for n in range(longest, 0, -1) if any(stop.startswith(text[-n:]) for stop in stops)), 0)


class StopText(StoppingCriteria):
    """Ends generation when the answer of a single row holds a stop text. The prompt does not count.

    Args:
        prompt: tokens of the prompt.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], prompt: int) -> None:
        self._tokenizer, self._stops, self._prompt = tokenizer, stops, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.tensor([self.met(input_ids[0, self._prompt :].tolist())], device=input_ids.device)

    def met(self, ids: list[int]) -> bool:
        """Whether a stop text is in these tokens, special ones counted as text."""
        text = self._tokenizer.decode(ids)
        return any(stop in text for stop in self._stops)


class Halted(StoppingCriteria):
    """Ends generation at the next token once an event is set: nobody waits for the answer any more."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self._event.is_set(), dtype=torch.bool, device=input_ids.device)


class ReplyStreamer(TextStreamer):
    """Hands on the text of an answer as it comes, up to the first stop text; what may become one is held back."""

    def __init__(self, tokenizer: Any, say: Callable[[str], None], stops: Sequence[str] = ()) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._say, self._stops = say, stops
        self._held, self._stopped = "", False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if self._stopped:
            return
        text = self._held + text
        told = before_stop(text, self._stops)
        self._stopped = told != text
        kept = 0 if self._stopped or stream_end else held_back(told, self._stops)
        told, self._held = told[: len(told) - kept], told[len(told) - kept :]
        if told:
            self._say(told)
