"""A request of OpenAI's chat completions API to an answer of the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import StoppingCriteriaList

from cambrian_gaze.attention.policy.policy import UnfitPolicyError, VisiblePolicy
from cambrian_gaze.attention.policy.routing import check_gaze
from cambrian_gaze.data.media.frame_sampling import FrameSampling
from cambrian_gaze.gaze.config import BUDGET_FIELDS
from cambrian_gaze.models.generation_settings import settle
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.policies import policy_gaze
from cambrian_gaze.models.positions import check_positions
from cambrian_gaze.models.processing.processor import CambrianGazeProcessor
from cambrian_gaze.serving.fields import check_known, generation_options, policy_of, seed_of, shown, stop_texts
from cambrian_gaze.serving.fields import stream_options as stream_options_of
from cambrian_gaze.serving.messages import MessageReader
from cambrian_gaze.serving.refusal import Refused
from cambrian_gaze.serving.stop import Halted, ReplyStreamer, StopText, before_stop
from cambrian_gaze.serving.traces import answer_trace, visuals_of

GREEDY: Mapping[str, Any] = {"do_sample": False}
"""What a request gets that says nothing about sampling, as `cambrian-gaze generate` does."""

_GAZE_SWITCHES = ("context_visible", "route_prompt", "visual_sees_context")
_GAZE_FIXED = ("backend", "image", "video", "schedule", "num_context_tokens")


@dataclass(frozen=True)
class ChatRequest:
    """A checked request."""

    messages: list[dict[str, Any]]
    """As the processor takes them, pictures and videos decoded."""
    generation: dict[str, Any]
    """Options of `generate`. Without `max_new_tokens`, the answer may be as long as the default and the positions
    allow."""
    gaze: dict[str, Any] | None
    """Run-time options such as {"top_k": 2}; None: the server's."""
    stream: bool = False
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these."""
    include_usage: bool = False
    """End a stream with the usage."""
    default_tokens: int = 128
    """Longest answer where the request does not say."""
    trace: bool = False
    """Whether the answer comes with its trace."""
    policy: VisiblePolicy | None = None
    """A baseline in the place of routing."""


@dataclass(frozen=True)
class ChatAnswer:
    """What was generated."""

    text: str
    finish_reason: str
    """"stop" or "length"."""
    prompt_tokens: int
    completion_tokens: int
    gaze: dict[str, Any] = field(default_factory=dict)
    """KV entries per query, layer and head, as counted: `visual`, `context`, `text`; and `trace` where the request
    asked for it, see `traces.answer_trace`."""


def parse_request(
    body: Mapping[str, Any],
    default_tokens: int = 128,
    sampling: Mapping[str, Any] = GREEDY,
    frames: FrameSampling | None = None,
) -> ChatRequest:
    """Check a request's JSON object and decode its pictures and videos.

    Args:
        default_tokens: longest answer where the request does not say.
        sampling: options of `generate` where the request says nothing about sampling.
        frames: how videos become frames.

    Raises: Refused (a ValueError) naming what is malformed or not supported. Nothing is ignored but `LABELS`.
    """
    if not isinstance(body, Mapping):
        raise Refused("the request must be a JSON object")
    given = {name: value for name, value in body.items() if value is not None}
    check_known(given)
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("messages must be a list of at least one message", "messages")
    gaze = given.get("gaze")
    if gaze is not None and not isinstance(gaze, dict):
        raise Refused(f"gaze must be an object such as {{'top_k': 2}}, got {shown(gaze)}", "gaze")
    traced = (gaze or {}).get("trace", False)
    if not isinstance(traced, bool):
        raise Refused(f"gaze: trace must be true or false, got {shown(traced)}", "gaze")
    if gaze is not None:
        gaze = {name: value for name, value in gaze.items() if name != "trace"}
    generation, stop, seed = generation_options(given, sampling), stop_texts(given), seed_of(given)
    stream, usage = stream_options_of(given)
    read = MessageReader(frames or FrameSampling())
    messages = [read.message(message, f"messages[{number}]") for number, message in enumerate(messages)]
    if traced:
        try:
            visuals_of(messages)
        except ValueError as error:
            raise Refused(f"gaze: no trace of this request: {error}", "gaze") from error
    policy = policy_of(given)
    return ChatRequest(messages, generation, gaze, stream, seed, stop, usage, default_tokens, traced, policy)


class ChatModel:
    """A model that answers one request after the other.

    Args:
        name: the model's name in requests.
        gaze: run-time options where a request gives none.
    """

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

        Raises: Refused for messages that cannot be rendered, an unknown gaze option, and more tokens than the decoder
        has positions for.
        """
        gaze = self._resolve(request.gaze)
        policy = None if request.policy is None else request.policy.with_tokenizer(self.processor.tokenizer)
        if policy is not None:
            gaze = self._under(policy, request.gaze)
        try:
            inputs = self.processor.apply_chat_template(request.messages, add_generation_prompt=True, tokenize=True)
            asked = inputs["input_ids"].shape[1]
            new = request.generation.get("max_new_tokens")
            room = check_positions(self.model.config, asked, new or 1)
        except ValueError as error:
            raise Refused(str(error), "messages") from error
        generation = request.generation | {"max_new_tokens": new or min(request.default_tokens, room)}
        more = {"gaze": gaze} | ({} if policy is None else {"policy": policy})
        return dict(inputs.to(self.model.device)) | generation | more

    def _under(self, policy: VisiblePolicy, options: dict[str, Any] | None) -> dict[str, Any]:
        """The options of the gaze under a policy: the server's but for its budget, and those of the request. Raises
        Refused where policy and options do not go together."""
        own = {name: value for name, value in (self.gaze or {}).items() if name not in BUDGET_FIELDS}
        gaze = policy_gaze(policy, own | (options or {}))
        try:
            policy.check(self.model.config.text_config.num_hidden_layers)
            check_gaze(policy, self.model.model.resolve_gaze(gaze))
        except ValueError as error:
            raise Refused(f"policy: {error}", "policy") from error
        return gaze

    def _resolve(self, options: dict[str, Any] | None) -> Any:
        if options is None:
            return self.model.model.resolve_gaze(self.gaze)
        if fixed := [name for name in _GAZE_FIXED if name in options]:
            raise Refused(f"gaze: {', '.join(fixed)} cannot be set by a request", "gaze")
        for name in _GAZE_SWITCHES:
            if name in options and not isinstance(options[name], bool):
                raise Refused(f"gaze: {name} must be true or false, got {shown(options[name])}", "gaze")
        try:
            return self.model.model.resolve_gaze(_over(self.gaze or {}, options))
        except (TypeError, ValueError) as error:
            raise Refused(f"gaze: {error}", "gaze") from error

    def answer(
        self,
        request: ChatRequest,
        prepared: dict[str, Any],
        say: Callable[[str], None] | None = None,
        halt: threading.Event | None = None,
    ) -> ChatAnswer:
        """Generate.

        Args:
            prepared: of `prepare`.
            say: called with each piece of text as it comes; an error that it raises ends the generation.
            halt: ends the generation at the next token once it is set.

        Raises: Refused where the policy cannot serve this model or these messages.
        """
        tokenizer, prompt = self.processor.tokenizer, prepared["input_ids"].shape[1]
        streamer = None if say is None else ReplyStreamer(tokenizer, say, request.stop)
        stop = StopText(tokenizer, request.stop, prompt)
        criteria = StoppingCriteriaList([stop] if request.stop else [])
        if halt is not None:
            criteria.append(Halted(halt))
        gpus = [self.model.device] if self.model.device.type == "cuda" else []
        seeded = nullcontext() if request.seed is None else torch.random.fork_rng(gpus)
        with self._turn, seeded:
            if request.seed is not None:
                torch.manual_seed(request.seed)
            try:
                output = self.model.generate(
                    **prepared,
                    return_gaze="weights" if request.trace else True,
                    output_logits=request.trace,
                    streamer=streamer,
                    stopping_criteria=criteria,
                )
            except UnfitPolicyError as error:
                raise Refused(f"policy: {error}", "policy") from error
        ids = output.sequences[0, prompt:].tolist()
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        ended = ids[-1] in ends or len(ids) < prepared["max_new_tokens"] or stop.met(ids)
        trace = output.gaze
        counted = {"visual": trace.attended_visual, "context": trace.attended_context, "text": trace.attended_text}
        told = {name: float(values.float().mean()) for name, values in counted.items()}
        if request.trace:
            told["trace"] = answer_trace(self, request.messages, prepared, output)
        return ChatAnswer(
            before_stop(tokenizer.decode(ids, skip_special_tokens=True), request.stop),
            "stop" if ended else "length",
            prompt,
            len(ids),
            told,
        )


def _over(own: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The server's options under those of a request, whose budget replaces the server's whatever its kind."""
    budget = any(asked.get(name) is not None for name in BUDGET_FIELDS)
    return {name: value for name, value in own.items() if not (budget and name in BUDGET_FIELDS)} | dict(asked)
