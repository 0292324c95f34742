"""A trace on disk: one safetensors file. Arrays are tensors, pictures are tensors of bytes, the rest is JSON.

The header's metadata hold `format` ("cambrian-gaze trace"), `version` and `trace`, a JSON object; docs/gaze_viewer.md
lists them. Any safetensors reader opens it; nothing in it is code. A version is readable for good: `READERS` keeps one
function for each, and a new version of the format adds one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save, save_file

import cambrian_gaze
from cambrian_gaze.data.media.aspect import check_aspect
from cambrian_gaze.files import replacing
from cambrian_gaze.viz.trace_data import ALL, TraceData, TraceItem

FORMAT, VERSION = "cambrian-gaze trace", 3
WEIGHTS = ("attention", "region_mass", "role_mass")
"""Arrays of softmax weights, float16; a trace has all of them or none."""
MAX_BYTES = 4 << 30
"""Larger files are refused before they are read, and not written."""
Kind = TypeVar("Kind", bound=TraceData)
Reader = Callable[[dict[str, Any], dict[str, np.ndarray]], dict[str, Any]]
"""From the header's facts and the arrays to the fields of a trace."""
_PER_ARRAY = 200
"""More bytes than an array takes in a file's header."""


class TraceError(ValueError):
    """A file that is no whole trace of a known version; one line that names it."""


def write_trace_file(path: str | os.PathLike, trace: TraceData) -> Path:
    """Writes a trace of the newest version atomically and returns its path. Raises `TraceError` for one that would have
    more than `MAX_BYTES`."""
    arrays, metadata = _parts(trace, str(path), MAX_BYTES)
    with replacing(path) as temporary:
        save_file(arrays, str(temporary), metadata)
    return Path(path)


def trace_bytes(trace: TraceData, most: int = MAX_BYTES) -> bytes:
    """The content of the file that `write_trace_file` writes. Raises `TraceError` where it would have more than `most`
    bytes."""
    return save(*_parts(trace, "a trace", most))


def _parts(trace: TraceData, name: str, most: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a file. Raises `TraceError` where it would have more than `most` bytes."""
    arrays = {
        "token_ids": trace.token_ids.astype(np.int64),
        "special": trace.special.astype(np.uint8),
        "regions": trace.regions.astype(np.int16 if len(trace.boxes) < 1 << 15 else np.int32),
        "attended": trace.attended.astype(np.int32),
        "boxes": trace.boxes.astype(np.int32),
    }
    if trace.logprobs is not None:
        arrays |= {"logprobs": trace.logprobs.astype(np.float32), "top_ids": trace.top_ids.astype(np.int64)}
        arrays["top_logprobs"] = trace.top_logprobs.astype(np.float32)
    if trace.kept is not None:
        arrays["kept"] = trace.kept.astype(np.float32)
    arrays |= {name: a.astype(np.float16) for name in WEIGHTS if (a := getattr(trace, name)) is not None}
    for number, item in enumerate(trace.items):
        for frame, data in enumerate(item.encoded):
            arrays[f"picture.{number}.{frame}"] = np.frombuffer(data, dtype=np.uint8)
    facts = {
        "made_by": f"cambrian-gaze {cambrian_gaze.__version__}",
        "model": trace.model,
        "gaze": trace.gaze,
        "image_aspect_ratio": trace.image_aspect_ratio,
        "prompt": trace.prompt,
        "answer": trace.answer,
        "tokens": trace.tokens,
        "top_tokens": trace.top_tokens,
        "items": [
            {name: getattr(item, name) for name in ("kind", "grid", "size", "source", "sha256", "lossless")}
            for item in trace.items
        ],
        "steering": trace.steering,
        "missing": trace.missing,
    }
    metadata = {"format": FORMAT, "version": str(VERSION), "trace": json.dumps(facts, ensure_ascii=False)}
    size = sum(a.nbytes + _PER_ARRAY for a in arrays.values()) + len(json.dumps(metadata["trace"]).encode())
    if size > most:
        raise TraceError(
            f"{name}: this trace would have {size} bytes, more than a file of one may ({most}): "
            f"{sum(len(item.encoded) for item in trace.items)} pictures and {len(trace.token_ids)} tokens; take fewer "
            "frames or smaller pictures, or a shorter answer"
        )
    return {name: np.ascontiguousarray(a) for name, a in arrays.items()}, metadata


def read_trace_file(path: str | os.PathLike, kind: type[Kind] = TraceData) -> Kind:
    """The trace in a file, as a `TraceData` or a class made of it. Raises `TraceError` for a missing, damaged,
    foreign or newer one."""
    path = Path(path)
    try:
        if path.is_dir():
            raise TraceError(f"{path} is a folder; name the trace's file")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise TraceError(f"{path}: {size} bytes are more than a trace has ({MAX_BYTES} at most)")
        with safe_open(str(path), framework="numpy") as opened:
            metadata = opened.metadata() or {}
            reader = _reader(path, metadata)
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise TraceError(f"{path} is no gaze trace, or a damaged one (no safetensors: {error})") from error
    try:
        facts = json.loads(metadata["trace"])
        trace = kind(**reader(facts, arrays))
        _check(trace)
    except TraceError as error:
        raise TraceError(f"{path}: damaged gaze trace: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise TraceError(f"{path}: damaged gaze trace: {type(error).__name__} {error}".splitlines()[0]) from error
    return trace


def _reader(path: Path, metadata: Mapping[str, str]) -> Reader:
    if metadata.get("format") != FORMAT:
        raise TraceError(f"{path} is a safetensors file, but no gaze trace; `generate --trace_file` writes one")
    version = metadata.get("version", "")
    if version.isdecimal() and version in READERS:
        return READERS[version]
    if version.isdecimal() and int(version[:9]) > VERSION:
        raise TraceError(
            f"{path} is a trace of version {version[:9]}, and cambrian-gaze {cambrian_gaze.__version__} reads up to "
            f"{VERSION}: it was written by a newer cambrian-gaze; install that one"
        )
    raise TraceError(f"{path}: damaged gaze trace: its version is {version[:20]!r}")


def _version_1(facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    items = []
    for number, told in enumerate(facts["items"]):
        grid, size = (tuple(map(int, told[name])) for name in ("grid", "size"))
        frames = [arrays[f"picture.{number}.{frame}"].tobytes() for frame in range(grid[0])]
        more = {name: told[name] for name in ("source", "sha256", "lossless")}
        items.append(TraceItem(told["kind"], grid, size, frames, **more))
    return dict(
        prompt=facts["prompt"],
        tokens=facts["tokens"],
        token_ids=arrays["token_ids"],
        special=arrays["special"].astype(bool),
        regions=arrays["regions"].astype(np.int32),
        attended=arrays["attended"],
        boxes=arrays["boxes"],
        items=items,
        image_aspect_ratio=check_aspect(facts["image_aspect_ratio"]),
        logprobs=arrays.get("logprobs"),
        top_ids=arrays.get("top_ids"),
        top_logprobs=arrays.get("top_logprobs"),
        top_tokens=facts["top_tokens"],
        gaze=facts["gaze"],
        model=facts["model"],
        made_by=facts["made_by"],
        missing=facts["missing"],
    )


def _version_2(facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Like version 1, and what was evicted, hidden and forced."""
    return _version_1(facts, arrays) | {"kept": arrays.get("kept"), "steering": facts["steering"]}


def _version_3(facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Like version 2, and attention weights."""
    return _version_2(facts, arrays) | {name: arrays.get(name) for name in WEIGHTS}


READERS: dict[str, Reader] = {"1": _version_1, "2": _version_2, "3": _version_3}
"""Version → what reads it."""


def _check(trace: TraceData) -> None:
    """Raises TraceError where parts do not fit each other, so that whoever draws a trace need not look."""

    def want(condition: Any, reason: str) -> None:
        if not condition:
            raise TraceError(reason)

    steps = len(trace.tokens)
    texts = [trace.prompt, trace.made_by, *trace.tokens, *(text for row in trace.top_tokens for text in row)]
    want(all(isinstance(text, str) for text in texts), "a text is none")
    parts = (trace.gaze, trace.model, trace.missing, trace.steering)
    want(all(isinstance(part, dict) for part in parts), "facts are no objects")
    for name, named in trace.steering.items():
        fits = isinstance(named, list) and all(isinstance(r, int) and 0 <= r < len(trace.boxes) for r in named)
        want(name in ("hidden", "forced") and fits, f"steering: {name!r:.20} names no regions")
    want(trace.regions.ndim == 4 and trace.attended.ndim == 4, "regions and attended have 4 dimensions")
    layers, heads, _ = trace.regions.shape[1:]
    shapes = {"token_ids": (steps,), "special": (steps,), "attended": (steps, layers, heads, 3)}
    shapes |= {"regions": trace.regions.shape, "boxes": (len(trace.boxes), 7)}
    if trace.logprobs is not None:
        width = trace.top_ids.shape[-1]
        shapes |= {"logprobs": (steps,), "top_ids": (steps, width), "top_logprobs": (steps, width)}
        want([len(row) for row in trace.top_tokens] == [width] * steps, "top_tokens and top_ids differ in number")
        want(trace.top_logprobs.dtype == trace.logprobs.dtype == np.float32, "log-probabilities are not float32")
    if trace.kept is not None:
        shapes["kept"] = layers, trace.num_visual
    want(len({getattr(trace, name) is None for name in WEIGHTS}) == 1, f"some of {', '.join(WEIGHTS)} are missing")
    if trace.attention is not None:
        depth = 1 if trace.attention.shape[1:2] == (1,) else layers
        shapes |= {"attention": (steps, depth, trace.num_visual), "region_mass": trace.regions.shape}
        shapes["role_mass"] = steps, layers, 3
    for name, shape in shapes.items():
        array = getattr(trace, name)
        want(array.shape == shape, f"{name} is {array.shape}, not {shape}")
        kinds = "f" if name.endswith("logprobs") or name in ("kept", *WEIGHTS) else "iub"
        want(array.dtype.kind in kinds, f"{name} has type {array.dtype}")
        if name in WEIGHTS:
            want(((array >= 0) & (array <= 1.01)).all(), f"{name} has values that are no shares")
    want(len(trace.regions) == steps, f"regions of {len(trace.regions)} tokens, but {steps} texts")
    bounds = trace.regions.min(initial=0), trace.regions.max(initial=-1)
    want(ALL <= bounds[0] and bounds[1] < len(trace.boxes), f"regions {bounds} of {len(trace.boxes)}")
    for item in trace.items:
        want(item.kind in ("image", "video"), f"an item is a {item.kind!r:.20}")
        want(len(item.grid) == 3 and len(item.size) == 2, "an item's grid or size has no 3 or 2 numbers")
        want(min(*item.grid, *item.size) > 0, f"an item of grid {item.grid} and size {item.size}")
    if len(trace.boxes):
        item, low, high = trace.boxes[:, 0], trace.boxes[:, [1, 3, 4]], trace.boxes[:, [2, 5, 6]]
        want(item.min() >= 0 and item.max() < len(trace.items), "a region lies in no item")
        grids = np.array([one.grid for one in trace.items])[item]
        want((low >= 0).all() and (low < high).all() and (high <= grids).all(), "a region lies outside its grid")
