"""Outcomes of trials (`trial.py`), kept in the cache folder: one JSON file per class of calls.

A file is believed where it is, bit for bit, what would be written for this class and what it says was the outcome. Any
other is made anew: one that was cut, changed by hand, or written for other versions of torch, the kernels or this code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

import torch

from cambrian_gaze import machine
from cambrian_gaze.attention.choice.trial import Outcome
from cambrian_gaze.files import CACHE_VARIABLE, cache_folder, write_bytes

logger = logging.getLogger(__name__)

PACKAGES = ("triton", "flash-attn", "cambrian-gaze")


@cache
def versions() -> dict[str, str | None]:
    """Versions that decide, too, which backend is right and fast. `code` is a digest of the sources of `attention` and
    `gaze`."""
    found: dict[str, str | None] = {"torch": torch.__version__}  # with its build, which the metadata may leave out
    found |= {**dict.fromkeys(PACKAGES), **machine.versions(PACKAGES)}
    digest = hashlib.blake2b(digest_size=8)
    attention = Path(__file__).parents[1]
    for path in sorted([*attention.rglob("*.py"), *attention.with_name("gaze").glob("*.py")]):
        digest.update(path.read_bytes())
    return {**found, "code": digest.hexdigest()}


def device_name(device: torch.device) -> str:
    """The kind of GPU or CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else machine.cpu_name()


def place(key: dict[str, Any]) -> Path:
    """The file of a class of calls."""
    name = hashlib.blake2b(_text(key).encode(), digest_size=12).hexdigest()
    return Path(cache_folder()) / "attention" / f"{name}.json"


def read(key: dict[str, Any]) -> list[Outcome] | None:
    """The outcomes of this class of calls; None where none are kept, or the file cannot be believed."""
    path = place(key)
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    try:
        outcomes = [Outcome(**values) for values in json.loads(raw)["outcomes"]]
        same = _content(key, outcomes) == raw
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        logger.warning("%s is damaged or stale; the attention backends are tried again", path)
        return None
    return outcomes


def write(key: dict[str, Any], outcomes: list[Outcome]) -> Path | None:
    """Keep the outcomes, whole or not at all. Returns the file; None, with a warning, where the folder cannot be
    written."""
    path = place(key)
    try:
        write_bytes(path, _content(key, outcomes))
    except OSError as error:
        logger.warning(
            "which attention backend is fastest was not kept (%s); set %s to a folder that can be written",
            error,
            CACHE_VARIABLE,
        )
        return None
    return path


def _content(key: dict[str, Any], outcomes: list[Outcome]) -> bytes:
    values = {"key": key, "outcomes": [dataclasses.asdict(outcome) for outcome in outcomes]}
    return _text({**values, "digest": hashlib.blake2b(_text(values).encode(), digest_size=16).hexdigest()}).encode()


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n"
