"""A request of OpenAI's chat completions API to an answer of the model. Images come as `data:` URLs and from nowhere
else: a server that fetches addresses or files for strangers is open to abuse."""

from __future__ import annotations

import base64
import binascii
import json
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import StoppingCriteriaList

from cambrian_gaze.data.media import load_image
from cambrian_gaze.models.generation_settings import settle
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.processing import CambrianGazeProcessor
from cambrian_gaze.models.serve.stop import Saying, StopText, before_stop

_KNOWN = {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "stream"}
_KNOWN |= {"gaze", "n", "stream_options", "user", "generation_config"}
_OPTIONS = {"max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "repetition_penalty"}
"""What a request may set of `generation_config`, the JSON text that `transformers chat` sends."""


@dataclass(frozen=True)
class ChatRequest:
    """A checked request."""

    messages: list[dict[str, Any]]
    """As the processor takes them, pictures opened."""
    generation: dict[str, Any]
    """Options of `generate`."""
    gaze: dict[str, Any] | None
    """Run-time options such as {"top_k": 2}; None: the server's."""
    stream: bool = False
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these."""


@dataclass(frozen=True)
class ChatAnswer:
    """What was generated."""

    text: str
    finish_reason: str
    """"stop" or "length"."""
    prompt_tokens: int
    completion_tokens: int
    gaze: dict[str, float] = field(default_factory=dict)
    """KV entries per query, layer and head, as counted: `visual`, `context`, `text`."""


def parse_request(body: Mapping[str, Any], default_tokens: int = 128) -> ChatRequest:
    """Check a request's JSON object.

    Raises: ValueError naming what is malformed or not supported. Nothing is ignored but `user` and `stream_options`.
    """
    if not isinstance(body, Mapping):
        raise ValueError("the request must be a JSON object")
    given = {name: value for name, value in body.items() if value is not None}
    if unknown := sorted(given.keys() - _KNOWN):
        raise ValueError(f"not supported here: {', '.join(unknown)}; known: {', '.join(sorted(_KNOWN))}")
    if given.get("n", 1) != 1:
        raise ValueError("n must be 1: one answer per request")
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages must be a list of at least one message")
    generation = _generation_config(given.get("generation_config", "{}"))
    tokens = given.get("max_completion_tokens", given.get("max_tokens"))
    tokens = generation.get("max_new_tokens", default_tokens) if tokens is None else tokens
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
        raise ValueError(f"max_tokens must be an integer of at least 1, got {tokens!r}")
    generation["max_new_tokens"] = tokens
    if "temperature" in given:
        temperature = _number(given, "temperature", 0.0, 100.0)
        generation |= {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    if "top_p" in given:
        generation["top_p"] = _number(given, "top_p", 0.0, 1.0)
    stop = given.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise ValueError(f"stop must be a text or a list of texts, none of them empty, got {stop!r}")
    gaze = given.get("gaze")
    if gaze is not None and not isinstance(gaze, dict):
        raise ValueError(f"gaze must be an object such as {{'top_k': 2}}, got {gaze!r}")
    seed = given.get("seed")
    if seed is not None and not isinstance(seed, int):
        raise ValueError(f"seed must be an integer, got {seed!r}")
    messages, stream = [_message(m) for m in messages], bool(given.get("stream", False))
    return ChatRequest(messages, generation, gaze, stream, seed, tuple(stop))


def _generation_config(text: Any) -> dict[str, Any]:
    options = json.loads(text) if isinstance(text, str) else None
    if not isinstance(options, dict):
        raise ValueError("generation_config must be a JSON object as text")
    options = {k: v for k, v in options.items() if v is not None and k != "transformers_version"}
    if unknown := sorted(options.keys() - _OPTIONS):
        raise ValueError(f"generation_config: not supported here: {', '.join(unknown)}")
    return options


def _number(given: Mapping[str, Any], name: str, low: float, high: float) -> float:
    value = given[name]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")
    return float(value)


def _message(message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping) or message.get("role") not in ("system", "user", "assistant"):
        raise ValueError("a message needs the role system, user or assistant")
    content = message.get("content")
    if isinstance(content, str):
        return {"role": message["role"], "content": [{"type": "text", "text": content}]}
    if not isinstance(content, list):
        raise ValueError("a message's content must be a string or a list of parts")
    return {"role": message["role"], "content": [_part(part) for part in content]}


def _part(part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image_url":
        address = part.get("image_url")
        return {"type": "image", "image": picture_of(address.get("url") if isinstance(address, Mapping) else address)}
    raise ValueError(f"a content part of type {kind!r} is not supported; use text and image_url")


def picture_of(url: Any) -> Image.Image:
    """The picture in a `data:image/…;base64,…` URL.

    Raises: ValueError for any other address, and for what is no picture.
    """
    head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise ValueError("an image must come as data:image/…;base64,…: this server fetches no addresses and no files")
    try:
        content = base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError(f"an image's base64 is broken: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "image").write_bytes(content)
        return load_image("image", folder)


class ChatModel:
    """A model that answers one request after the other."""

    def __init__(
        self,
        model: CambrianGazeForConditionalGeneration,
        processor: CambrianGazeProcessor,
        name: str,
        gaze: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.processor, self.name, self.gaze = model, processor, name, gaze
        settle(model, processor.tokenizer)
        self._turn = threading.Lock()

    def prepare(self, request: ChatRequest) -> dict[str, Any]:
        """The arguments of `generate`.

        Raises: ValueError for messages that cannot be rendered, an unknown gaze option, and more tokens than the
        decoder has positions for.
        """
        inputs = self.processor.apply_chat_template(request.messages, add_generation_prompt=True, tokenize=True)
        gaze = self.model.model.resolve_gaze(self.gaze if request.gaze is None else request.gaze)
        room = self.model.config.text_config.max_position_embeddings
        asked, new = inputs["input_ids"].shape[1], request.generation["max_new_tokens"]
        if asked + new > room:
            raise ValueError(f"{asked} tokens of prompt and {new} of answer exceed the {room} positions of the decoder")
        return dict(inputs.to(self.model.device)) | request.generation | {"gaze": gaze}

    def answer(
        self, request: ChatRequest, prepared: dict[str, Any], say: Callable[[str], None] | None = None
    ) -> ChatAnswer:
        """Generate.

        Args:
            prepared: of `prepare`.
            say: called with each piece of text as it comes; an error that it raises ends the generation.
        """
        tokenizer, prompt = self.processor.tokenizer, prepared["input_ids"].shape[1]
        streamer = None if say is None else Saying(tokenizer, say, request.stop)
        stop = StopText(tokenizer, request.stop, prompt)
        criteria = StoppingCriteriaList([stop] if request.stop else [])
        with self._turn:
            if request.seed is not None:
                torch.manual_seed(request.seed)
            output = self.model.generate(**prepared, return_gaze=True, streamer=streamer, stopping_criteria=criteria)
        ids = output.sequences[0, prompt:].tolist()
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        ended = ids[-1] in ends or len(ids) < request.generation["max_new_tokens"] or stop.met(ids)
        trace = output.gaze
        counted = {"visual": trace.attended_visual, "context": trace.attended_context, "text": trace.attended_text}
        return ChatAnswer(
            before_stop(tokenizer.decode(ids, skip_special_tokens=True), request.stop),
            "stop" if ended else "length",
            prompt,
            len(ids),
            {name: float(values.float().mean()) for name, values in counted.items()},
        )
