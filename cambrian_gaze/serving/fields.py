"""The fields of a request of OpenAI's chat completions API: each has its effect, asks for nothing, or is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cambrian_gaze.attention.policy.policy import VisiblePolicy
from cambrian_gaze.baselines.registry import make_policy
from cambrian_gaze.serving.refusal import Refused

EFFECTIVE = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "stream"}
    | {"stream_options", "gaze", "policy", "generation_config"}
)
"""Fields with an effect."""

LABELS = frozenset({"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
"""Fields that concern OpenAI's book-keeping and no answer. They are taken; nothing is stored here."""


def _zero(value: Any) -> bool:
    return is_number(value) and value == 0


def _one(value: Any) -> bool:
    return is_number(value) and value == 1


NEUTRAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "n": (_one, "1: one answer per request"),
    "best_of": (_one, "1: one answer per request"),
    "frequency_penalty": (_zero, "0; generation_config takes a repetition_penalty"),
    "presence_penalty": (_zero, "0; generation_config takes a repetition_penalty"),
    "repetition_penalty": (_one, "1; give it in generation_config"),
    "min_p": (_zero, "0"),
    "top_k": (
        lambda v: is_integer(v) and v in (-1, 0),
        '0: regions are {"gaze": {"top_k": …}}, and top_k of sampling belongs to generation_config',
    ),
    "logit_bias": (lambda v: v == {}, "{}"),
    "logprobs": (lambda v: v is False, "false: this server gives no log-probabilities"),
    "top_logprobs": (_zero, "0: this server gives no log-probabilities"),
    "tools": (lambda v: v == [], "[]: this server calls no tools"),
    "functions": (lambda v: v == [], "[]: this server calls no tools"),
    "tool_choice": (lambda v: v in ("none", "auto"), '"none" or "auto": this server calls no tools'),
    "function_call": (lambda v: v in ("none", "auto"), '"none" or "auto": this server calls no tools'),
    "parallel_tool_calls": (lambda v: isinstance(v, bool), "true or false: this server calls no tools"),
    "response_format": (lambda v: v == {"type": "text"}, '{"type": "text"}'),
    "modalities": (lambda v: v == ["text"], '["text"]'),
    "reasoning_effort": (lambda v: v == "none", '"none": the model does not think aloud'),
    "verbosity": (lambda v: v == "medium", '"medium"'),
    "service_tier": (lambda v: v in ("auto", "default"), '"auto" or "default"'),
    "chat_template_kwargs": (
        lambda v: v in ({}, {"enable_thinking": False}),
        '{} or {"enable_thinking": false}: the model does not think aloud',
    ),
    "enable_thinking": (lambda v: v is False, "false: the model does not think aloud"),
    # Of vLLM's requests
    "length_penalty": (_one, "1: there is no beam search"),
    "use_beam_search": (lambda v: v is False, "false"),
    "min_tokens": (_zero, "0"),
    "ignore_eos": (lambda v: v is False, "false: an answer ends where the model ends it"),
    "stop_token_ids": (lambda v: v == [], "[]; stop takes texts"),
    "include_stop_str_in_output": (lambda v: v is False, "false: a stop text is no part of the answer"),
    "skip_special_tokens": (lambda v: v is True, "true"),
    "spaces_between_special_tokens": (lambda v: isinstance(v, bool), "true or false: an answer has no special tokens"),
    "echo": (lambda v: v is False, "false"),
    "add_generation_prompt": (lambda v: v is True, "true"),
    "continue_final_message": (lambda v: v is False, "false: an answer is a turn of its own"),
    "add_special_tokens": (lambda v: v is False, "false: the chat template writes all that there are"),
    "mm_processor_kwargs": (lambda v: v == {}, "{}: every picture gets the model's own size"),
}
"""Fields without an effect here, which may say what is done anyway: the check, and what is allowed."""

_SAMPLED: dict[str, tuple[float, float]] = {"temperature": (0, 100), "top_p": (0, 1)}
_CONFIG: dict[str, Callable[[Any], bool]] = {
    "max_new_tokens": lambda v: is_integer(v) and v >= 1,
    "do_sample": lambda v: isinstance(v, bool),
    "temperature": lambda v: is_number(v) and 0 <= v <= 100,
    "top_p": lambda v: is_number(v) and 0 <= v <= 1,
    "top_k": lambda v: is_integer(v) and 0 <= v < 2**31,
    "repetition_penalty": lambda v: is_number(v) and 0.1 <= v <= 10,
}
"""What a request may set of `generation_config`."""
_ALONE = {"num_beams": 1, "num_return_sequences": 1}
_CONFIG_NEUTRAL = {**_ALONE, "use_cache": True, "output_scores": False}

COLDEST = 1e-4
"""A temperature below is the greedy limit: logits divided by less overflow."""


def check_known(given: Mapping[str, Any]) -> None:
    """Raises: Refused for fields that are unknown, or ask for what is not offered."""
    for name, value in given.items():
        if name in NEUTRAL:
            taken, allowed = NEUTRAL[name]
            if not taken(value):
                raise Refused(f"{name} must be {allowed}; got {shown(value)}", name)
        elif name not in EFFECTIVE | LABELS:
            raise Refused(
                f"not supported here: {shown(name)}; known: {', '.join(sorted(EFFECTIVE | LABELS | NEUTRAL.keys()))}",
                name if name.isascii() else None,
                code="unknown_parameter",
            )


def generation_options(given: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `generate`. Without a word about sampling they are `default`; with one, what is not said is as in
    OpenAI's API: temperature 1, top_p 1.

    Raises: Refused.
    """
    config = _generation_config(given.get("generation_config"))
    sampled = {name: float(_in_range(given, name, *_SAMPLED[name])) for name in _SAMPLED if name in given}
    tokens = given.get("max_completion_tokens", given.get("max_tokens"))
    own = {name: config[name] for name in ("max_new_tokens", "repetition_penalty") if name in config}
    options = _ALONE | own  # whatever was saved with the model: beams cannot be streamed
    if tokens is not None:
        if not is_integer(tokens) or tokens < 1:
            raise Refused(f"max_tokens must be an integer of at least 1, got {shown(tokens)}", "max_tokens")
        options["max_new_tokens"] = tokens
    chosen = {name: config[name] for name in ("temperature", "top_p", "top_k") if name in config} | sampled
    if config.get("do_sample") is False and not sampled:
        if chosen.get("temperature", 1) not in (0, 1) or chosen.get("top_p", 1) != 1:
            raise Refused(
                "generation_config says do_sample false and asks for sampling; leave one of them out",
                "generation_config",
            )
        return options | {"do_sample": False}
    if not chosen and "do_sample" not in config:
        return dict(default) | options
    chosen = {"temperature": 1.0, "top_p": 1.0, "top_k": 0} | chosen
    if chosen["temperature"] < COLDEST:
        return options | {"do_sample": False}
    return options | {"do_sample": True} | chosen


def _generation_config(given: Any) -> dict[str, Any]:
    """`generation_config`, an object or the JSON text of one (as `transformers chat` sends it), checked."""
    name = "generation_config"
    if given is None:
        return {}
    try:
        options = read_json(given) if isinstance(given, str) else given
    except Refused as error:
        raise Refused(f"{name} is no JSON: {error}", name) from error
    if not isinstance(options, dict):
        raise Refused(f"{name} must be an object, or one as JSON text", name)
    options = {key: value for key, value in options.items() if value is not None and key != "transformers_version"}
    for key, value in options.items():
        if key in _CONFIG_NEUTRAL:
            if value != _CONFIG_NEUTRAL[key]:
                raise Refused(f"{name}: {key} must be {shown(_CONFIG_NEUTRAL[key])}, got {shown(value)}", name)
        elif key not in _CONFIG:
            raise Refused(f"{name}: not supported here: {shown(key)}; known: {', '.join(_CONFIG)}", name)
        elif not _CONFIG[key](value):
            raise Refused(f"{name}: {key} cannot be {shown(value)}", name)
    return {key: value for key, value in options.items() if key in _CONFIG}


def stop_texts(given: Mapping[str, Any]) -> tuple[str, ...]:
    """The stop texts. Raises Refused."""
    stop = given.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise Refused(f"stop must be a text or a list of texts, none of them empty, got {shown(stop)}", "stop")
    if len(stop) > 16 or any(len(text) > 1000 for text in stop):
        raise Refused("stop takes up to 16 texts of up to 1,000 characters", "stop")
    return tuple(stop)


def policy_of(given: Mapping[str, Any]) -> VisiblePolicy | None:
    """The policy that `{"name": …}` with its options names. Raises Refused."""
    asked = given.get("policy")
    if asked is None:
        return None
    if not isinstance(asked, dict) or not isinstance(asked.get("name"), str):
        raise Refused(
            f'policy must be an object such as {{"name": "snapkv", "budget": 72}}, got {shown(asked)}', "policy"
        )
    try:
        return make_policy(asked["name"], {name: value for name, value in asked.items() if name != "name"})
    except (TypeError, ValueError) as error:
        raise Refused(f"policy: {error}", "policy") from error


def seed_of(given: Mapping[str, Any]) -> int | None:
    """The seed. Raises Refused."""
    seed = given.get("seed")
    if seed is not None and not (is_integer(seed) and -(2**63) <= seed < 2**64):
        raise Refused(f"seed must be an integer from -2^63 to 2^64 - 1, got {shown(seed)}", "seed")
    return seed


def stream_options(given: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether to stream, and whether to end the stream with the usage. Raises Refused."""
    stream = given.get("stream", False)
    if not isinstance(stream, bool):
        raise Refused(f"stream must be true or false, got {shown(stream)}", "stream")
    options = given.get("stream_options", {})
    if not isinstance(options, dict) or options.keys() - {"include_usage", "include_obfuscation"}:
        raise Refused(f"stream_options takes include_usage alone, got {shown(options)}", "stream_options")
    usage, obfuscated = options.get("include_usage") or False, options.get("include_obfuscation") or False
    if not isinstance(usage, bool) or obfuscated is not False:
        raise Refused("stream_options: include_usage is true or false, include_obfuscation false", "stream_options")
    if options and not stream:
        raise Refused("stream_options needs stream: true", "stream_options")
    return stream, usage


def _in_range(given: Mapping[str, Any], name: str, low: float, high: float) -> float:
    value = given[name]
    if not is_number(value) or not low <= value <= high:
        raise Refused(f"{name} must be a number from {low:g} to {high:g}, got {shown(value)}", name)
    return value


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def shown(value: Any, length: int = 80) -> str:
    """A value in an error's text, shortened."""
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    if isinstance(value, (list, dict)):
        text = f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    return text if len(text) <= length else f"{text[:length]}…"


def read_json(data: str | bytes) -> Any:
    """JSON as RFC 8259 has it. Raises Refused: not JSON, nested too deeply, a key twice in one object, half of a
    surrogate pair (such as half an emoji), which is no text."""
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except RecursionError:
        raise Refused("the request is nested too deeply") from None
    except Refused:
        raise
    except ValueError as error:  # UnicodeDecodeError, and numbers of thousands of digits, too
        raise Refused(f"the request is not JSON: {error}"[:300]) from error
    if "\\ud" in text or "\\uD" in text:
        _refuse_half_characters(value)
    return value


def _refuse_half_characters(value: Any) -> None:
    pending: list[Any] = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            pending += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            pending += one
        elif isinstance(one, str):
            try:
                one.encode()
            except UnicodeEncodeError as error:
                place = f"character {error.start} of a text of {len(one)}"
                raise Refused(f"{place} is half of a surrogate pair, such as half an emoji: no text") from error


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Refused(f"the key {shown(twice)} stands twice in one object")
    return found


def _no_constant(name: str) -> float:
    raise Refused(f"{name} is no number in JSON")
