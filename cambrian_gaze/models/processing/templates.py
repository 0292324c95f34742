"""Chat templates: which one is meant, and other templates than ours, which are tried out before they are used."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cambrian_gaze.data.conversation import CHAT_TEMPLATE
from cambrian_gaze.models.folders.template_probe import probe

FORMER_TEMPLATES = frozenset({"cc2d407f4a8a13f40d1e562150856368271250d632f87435deb0b28864319568"})
"""SHA-256 of templates that were the default before, as saved models hold them."""


def chosen_template(known: str | dict[str, str] | None, wanted: str | None) -> str:
    """A template by its name among the `known`, or itself; None: the default. Former defaults are the present one.

    Raises: ValueError for a name that is not known.
    """
    templates = known if isinstance(known, dict) else {"default": known}
    found = templates.get(wanted or "default", wanted) or CHAT_TEMPLATE
    if wanted is not None and found == wanted and not re.search(r"[{\s]", wanted):
        raise ValueError(f"no chat template is named {wanted!r}; known: {', '.join(templates)}")
    former = hashlib.sha256(found.encode()).hexdigest() in FORMER_TEMPLATES
    return CHAT_TEMPLATE if former else found


def with_placeholder_tokens(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For other templates than ours: `<image>` and `<video>` of contents that are strings as placeholder tokens."""
    written = []
    for message in messages:
        content = message["content"]
        if isinstance(content, str) and message["role"] != "assistant":
            content = content.replace("<image>", "<|image_pad|>").replace("<video>", "<|video_pad|>")
        written.append({**message, "content": content})
    return written


def check_template(tokenizer: Any, template: str) -> None:
    """Raises: ValueError where another template than ours is broken, or takes too much for three short turns."""
    if template != CHAT_TEMPLATE and (fault := probe(template)):
        raise ValueError(f"the chat template of {_place(tokenizer)} is not used: {fault}")


def render_foreign(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], template: str, variables: Mapping[str, Any]
) -> str:
    """A conversation by another template than ours, which is tried out first.

    Raises: ValueError as `check_template`, and where the template refuses the conversation.
    """
    check_template(tokenizer, template)
    try:
        return tokenizer.apply_chat_template(
            with_placeholder_tokens(messages), chat_template=template, tokenize=False, **variables
        )
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        told = f"the chat template of {_place(tokenizer)} does not render this conversation: {reason}"
        raise ValueError(told) from error


def _place(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "") or "the processor"
