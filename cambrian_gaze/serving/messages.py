"""Messages of a request as the processor takes them, their pictures and videos decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cambrian_gaze.data.media.frame_sampling import FrameSampling
from cambrian_gaze.data.media.image_files import MAX_PIXELS
from cambrian_gaze.serving.fields import shown
from cambrian_gaze.serving.media import frames_of, picture_of
from cambrian_gaze.serving.refusal import Refused

MAX_VISUALS = 256
"""Most pictures and videos of a request; the decoder's positions usually allow fewer."""
PART_LABELS = frozenset({"cache_control", "uuid", "annotations"})
"""Keys of a part of a message that concern caches and citations of other servers, and no answer here."""

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_SAID_NOTHING = (None, "", [], {})


class MessageReader:
    """Messages of one request, which share a budget of pixels."""

    def __init__(self, frames: FrameSampling) -> None:
        self._frames, self._pixels, self._visuals = frames, MAX_PIXELS, 0

    def message(self, message: Any, where: str) -> dict[str, Any]:
        """A message as the processor takes it. Raises Refused."""
        role = message.get("role") if isinstance(message, Mapping) else None
        if not isinstance(role, str) or role not in _ROLES:
            raise Refused(f"{where}: a message needs the role {', '.join(_ROLES)}; got {shown(role)}", where)
        _check_rest(message, {"role", "content"}, where)
        content = message.get("content")
        if isinstance(content, str):
            return {"role": _ROLES[role], "content": [{"type": "text", "text": content}]}
        if not isinstance(content, list):
            raise Refused(f"{where}: content must be a text or a list of parts, got {shown(content)}", where)
        parts = [self._part(part, f"{where}.content[{number}]") for number, part in enumerate(content)]
        if role != "user" and any(part["type"] != "text" for part in parts):
            raise Refused(f"{where}: pictures and videos belong to messages of the user", where)
        return {"role": _ROLES[role], "content": parts}

    def _part(self, part: Any, where: str) -> dict[str, Any]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("image_url", "video_url") and not (kind == "text" and isinstance(part.get("text"), str)):
            raise Refused(
                f"{where}: a content part of type {shown(kind)} is not supported; use text, image_url and video_url",
                where,
            )
        _check_rest(part, {"type", kind, *PART_LABELS}, where, f"in a part of type {kind}")
        if kind == "text":
            return {"type": "text", "text": part["text"]}
        address = part.get(kind)
        if isinstance(address, Mapping):
            if address.get("detail") not in (None, "auto", "high"):
                raise Refused(
                    f"{where}: detail must be auto or high: every picture gets the model's whole grid; "
                    'fewer of its tokens are attended with {"gaze": {"top_k": …}}',
                    where,
                )
            _check_rest(address, {"url", "detail"}, where, said_nothing=())
            address = address.get("url")
        self._visuals += 1
        if self._visuals > MAX_VISUALS:
            raise Refused(f"{where}: a request may hold {MAX_VISUALS} pictures and videos", where)
        if kind == "video_url":
            return {"type": "video", "video": frames_of(address, self._frames, where)}
        picture = picture_of(address, where, self._pixels)
        self._pixels -= picture.width * picture.height
        return {"type": "image", "image": picture}


def _check_rest(
    given: Mapping[str, Any],
    known: set[str],
    where: str,
    place: str = "here",
    said_nothing: Sequence[Any] = _SAID_NOTHING,
) -> None:
    """Raises: Refused for what is not `known` and says something."""
    if more := sorted(name for name, value in given.items() if name not in known and value not in said_nothing):
        raise Refused(f"{where}: not supported {place}: {', '.join(map(shown, more))}", where)
