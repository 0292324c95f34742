"""What is wrong with a record, in sentences of limited length."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

MAX_WORD = 160
"""Longest run of characters without white space that an error quotes whole: a path, but no picture in base64."""

MAX_TEXT = 800
"""Longest sentence of an error."""


_WAY_OF_CALLING = {"flags": False}


@contextmanager
def speaking_of_flags() -> Iterator[None]:
    """Within, remedies name options as the command line has them; otherwise as a Python call and a YAML file do."""
    before, _WAY_OF_CALLING["flags"] = _WAY_OF_CALLING["flags"], True
    try:
        yield
    finally:
        _WAY_OF_CALLING["flags"] = before


def option(name: str) -> str:
    """An option as the user gives it: `--image_folder` on the command line, `image_folder` elsewhere."""
    return f"--{name}" if _WAY_OF_CALLING["flags"] else name


KINDS = ("malformed", "placeholders", "empty_answer", "missing", "undecodable", "overlong")
"""What may be wrong with a record. Over-long ones are no fault of the data: the policy of a run decides about them."""


class RecordError(ValueError):
    """A record that cannot become a sample: what is wrong, how to correct it and, once known, where it stands.

    Values that the reason quotes are shortened, however long they are.
    """

    kind: ClassVar[str] = "malformed"
    """One of KINDS."""

    def __init__(self, reason: str, remedy: str = "", file: str | None = None, row: int | None = None):
        reason, remedy = shortened(reason), shortened(remedy)
        super().__init__(reason, remedy, file, row)
        self.reason, self.remedy, self.file, self.row = reason, remedy, file, row

    def __str__(self) -> str:
        where = "" if self.file is None else f"{self.file}, row {self.row}: "
        return f"{where}{self.reason}" + (f". Remedy: {self.remedy}" if self.remedy else "")

    def at(self, file: str, row: int) -> RecordError:
        """The same error, placed at `file` and `row` where it has no place yet."""
        return self if self.file is not None else type(self)(self.reason, self.remedy, file, row)


def shortened(text: str) -> str:
    """The text, the middle of its longest words left out, and of the whole where that is still too long."""
    if len(text) <= MAX_WORD:
        return text
    text = re.sub(rf"\S{{{MAX_WORD + 1},}}", lambda word: _cut(word[0], MAX_WORD // 2), text)
    return text if "\n" in text else _cut(text, MAX_TEXT)  # a traceback, as workers send it, stays whole


def shown(value: Any, limit: int = 80) -> str:
    """`repr` of a value, at most about `limit` characters of it."""
    if isinstance(value, bytes | bytearray):
        return f"{len(value):,} bytes"
    return _cut(repr(value), limit)


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[: limit * 3 // 4]}…{text[-limit // 4 :]} ({len(text):,} characters)"
