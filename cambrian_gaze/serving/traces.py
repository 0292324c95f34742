"""The trace of an answer, for a request that asks for it: `{"gaze": {"trace": true}}`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from cambrian_gaze.evaluation.prompts import pictures_of
from cambrian_gaze.viz.trace_file import FORMAT, VERSION, TraceError, trace_bytes
from cambrian_gaze.viz.trace_record import Asked, check_pictures, model_facts, trace_of

MAX_TRACE = 64 * 2**20
"""Largest trace in an answer, in bytes before base64. Of a larger one the answer says so."""


def visuals_of(messages: Sequence[dict[str, Any]]) -> list[Any]:
    """The pictures and videos of a request, in order. Raises ValueError where a trace cannot keep one."""
    visuals = pictures_of(messages)
    check_pictures(visuals)
    return visuals


def answer_trace(
    chat: Any, messages: Sequence[dict[str, Any]], prepared: dict[str, Any], output: Any
) -> dict[str, Any]:
    """What an answer holds of its trace: `format`, `version` and `safetensors`, the file in base64, or `missing`.

    Args:
        chat: the `ChatModel` that answered.
        prepared: the arguments of `generate`, which returned `output` with its gaze and logits.
    """
    asked = [part["text"] for part in messages[-1]["content"] if part["type"] == "text"]
    trace = trace_of(
        output,
        chat.model,
        chat.processor,
        Asked(
            prompt_tokens=prepared["input_ids"].shape[1],
            prompt="\n".join(asked),
            pictures=visuals_of(messages),
            gaze=prepared["gaze"],
        ),
        facts=model_facts(chat.model.name_or_path) | {"name": chat.name},
    )
    told: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    try:
        return told | {"safetensors": base64.b64encode(trace_bytes(trace, MAX_TRACE)).decode()}
    except TraceError as error:
        return told | {"missing": str(error)}
