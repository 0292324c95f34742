"""The viewer: a trace as one HTML page that needs no network, from the files in `assets/viewer`.

The page carries the trace as JSON; arrays are deflated and in base 85. Its policy lets the browser run the script of
this package alone and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cambrian_gaze.files import write_text
from cambrian_gaze.viz.heat import heat_told, page_heat
from cambrian_gaze.viz.html import deflated, element
from cambrian_gaze.viz.style import STYLE
from cambrian_gaze.viz.trace_data import ALL, NONE, TraceData, encode_picture

SIDES = (1280, 800, 480, 320, 224, 160, 96, 64, 48)
"""Longest side of a picture in the page, in pixels: the first with which all of them fit."""
MAX_PAGE, LEAST_PICTURES = 4_800_000, 300_000
"""Pictures get what the gaze leaves of so many bytes, and at least so many, both in base64."""
CRISP, SMALL_PNG = 256, 150_000
"""A picture goes into the page as PNG up to this longest side and so many bytes, as JPEG beyond."""


SCRIPTS = ("trace.js", "draw.js", "heat.js", "host.js", "viewer.js")


def viewer_page(trace: TraceData, most: int = MAX_PAGE) -> str:
    """The whole document, of at most so many bytes if gaze and pictures leave room. Raises ValueError where a picture
    of the trace cannot be read."""
    script = viewer_script()
    return filled(
        "page.html",
        policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{script_digest(script)}'",
        title=html.escape(trace.prompt.strip() or "Gaze"),
        answer=html.escape(trace.answer),
        style=STYLE + asset("viewer.css"),
        script=script,
        data=script_json(viewer_data(trace, most)),
    )


def script_json(value: Any) -> str:
    """JSON for a script element: the same values, in characters that cannot end it."""
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def viewer_script() -> str:
    """The page's own script."""
    return "".join(map(asset, SCRIPTS))


def script_digest(script: str) -> str:
    """As a Content-Security-Policy names a script that may run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def filled(name: str, **parts: str) -> str:
    """A page of `assets/viewer` with its parts in the place of {their names}."""
    return re.sub(r"\{(\w+)\}", lambda match: parts[match.group(1)], asset(name))


def write_viewer(path: str | os.PathLike, trace: TraceData) -> Path:
    """Writes the page atomically and returns its path."""
    return write_text(path, viewer_page(trace))


def frame(trace: TraceData, height: int = 720) -> str:
    """An `iframe` that holds the page, `height` CSS pixels tall: for notebooks. Its script cannot reach the page around
    it."""
    return element(
        "iframe",
        srcdoc=viewer_page(trace),
        sandbox="allow-scripts",
        title="Gaze viewer",
        loading="lazy",
        style=f"width:100%;height:{int(height)}px;border:0",
    )


def viewer_data(trace: TraceData, most: int = MAX_PAGE, pictures: bool = True) -> dict[str, Any]:
    """What the page's script reads: see `assets/viewer/trace.js`. Pictures are made smaller until all of it has at most
    `most` bytes, as far as that goes. Without `pictures` a page goes on showing those that it has."""
    packing, packed = pack_regions(trace.regions, len(trace.boxes))
    regions, attended = deflated(packed), deflated(trace.attended.astype("<u4"))
    room = most - len(regions) - len(attended)
    heat = page_heat(trace, room - LEAST_PICTURES)
    room = max(LEAST_PICTURES, room - (len(heat["cells"]) + len(heat["roles"]) if heat else 0))
    addresses, side = _addresses(trace, room) if pictures else ([""] * len(trace.units), max(SIDES))
    places = [
        [*box[:3], *pixels, row, column]
        for box, pixels, (row, column) in zip(trace.boxes.tolist(), trace.pixels, _cells(trace), strict=True)
    ]
    known = trace.logprobs is not None
    return {
        "prompt": trace.prompt.strip(),
        "tokens": trace.tokens,
        "special": trace.special.astype(int).tolist(),
        "shape": list(trace.regions.shape),
        "packing": packing,
        "regions": regions,
        "attended": attended,
        "places": places,
        "tokens_of": trace.boxes[:, 3:].tolist() if heat else [],
        "heat": heat,
        "units": [_unit(trace, *unit, address) for unit, address in zip(trace.units, addresses, strict=True)],
        "logprobs": [_log(value) for value in trace.logprobs] if known else None,
        "alone": _alone(trace),
        "top": [
            [[text, _log(value)] for text, value in zip(texts, values, strict=True)]
            for texts, values in zip(trace.top_tokens, trace.top_logprobs, strict=True)
        ]
        if known
        else [],
        "kept": None if trace.kept is None else (trace.kept.mean(0) * 255).round().astype(int).tolist(),
        "steering": trace.steering,
        "missing": trace.missing,
        "facts": facts_line(trace),
        "about": _about(trace, side, heat_told(trace, heat)),
    }


def pack_regions(regions: np.ndarray, count: int) -> tuple[str, np.ndarray]:
    """The smallest of three forms of int [T, L, H, K]: "list8" and "list16", numbers with the highest value for `NONE`
    and the next for `ALL`; "mask", uint8 [T, L, H, ceil(R / 8)] with the lowest bit first, all set for `ALL`."""
    size = 1 if count <= 254 else 2
    if count > 0xFFFE or size * regions.shape[-1] > -(-count // 8) > 0:
        numbers = np.where(regions < 0, count, regions)
        bits = np.zeros((*regions.shape[:-1], count + 1), dtype=bool)
        np.put_along_axis(bits, numbers, True, axis=-1)
        bits[..., :count] |= regions[..., :1] == ALL
        return "mask", np.packbits(bits[..., :count], axis=-1, bitorder="little")
    top = (1 << 8 * size) - 1
    numbers = np.where(regions == NONE, top, np.where(regions == ALL, top - 1, regions))
    return f"list{8 * size}", numbers.astype(f"<u{size}")


def facts_line(trace: TraceData) -> str:
    """Model, budget and sizes in one line."""
    steps, layers, heads, _ = trace.regions.shape
    budget = trace.gaze.get("image") if isinstance(trace.gaze.get("image"), Mapping) else {}
    given = next((f"{name} {value}" for name, value in budget.items() if name != "region_size" and value), None)
    name = str(trace.model.get("name") or "unknown model")
    return " · ".join(
        [
            name,
            f"{layers} layers × {heads} heads",
            f"{len(trace.boxes)} regions",
            *([given.replace("_", " ")] if given else []),
            f"{steps} tokens",
        ]
    )


def _about(trace: TraceData, side: int, heat: str | None) -> list[tuple[str, str]]:
    """Facts for the reader. `side`: the longest side of a picture in the page; `heat`: what it has of that."""
    largest = max((max(item.size) for item in trace.items), default=0)
    items = [
        f"{item.kind}, {item.size[0]}×{item.size[1]} pixels, {item.grid[0]} frame(s) of "
        f"{item.grid[1]}×{item.grid[2]} tokens" + (f", {item.source}" if item.source else "")
        for item in trace.items
    ]
    return [
        ("model", str(trace.model.get("name") or "unknown")),
        ("weights", str(trace.model.get("weights") or "not known")),
        *[(name, json.dumps(value)) for name, value in trace.model.items() if name not in ("name", "weights")],
        ("written by", trace.made_by),
        ("pictures", "; ".join(items)),
        *([("pictures here", f"made smaller, to {side} pixels at most")] if side < largest else []),
        *([("heat here", heat)] if heat else []),
        ("made square by", {"pad": "padding", "square": "stretching"}[trace.image_aspect_ratio]),
        *[(name, f"{len(regions)} regions: {', '.join(map(str, regions))}") for name, regions in _steered(trace)],
        ("gaze", json.dumps(trace.gaze, ensure_ascii=False)),
        *[(f"not recorded: {name}", str(reason)) for name, reason in trace.missing.items()],
    ]


def _steered(trace: TraceData) -> list[tuple[str, list[int]]]:
    named = {"hidden": "hidden from the text", "forced": "left to look at"}
    return [(named[name], regions) for name, regions in trace.steering.items() if regions]


def _cells(trace: TraceData) -> list[tuple[int, int]]:
    """Row and column of each region among the regions of its item."""
    corners: dict[int, tuple[list[int], list[int]]] = {}
    for item in range(len(trace.items)):
        mine = trace.boxes[trace.boxes[:, 0] == item]
        corners[item] = sorted(set(mine[:, 3].tolist())), sorted(set(mine[:, 4].tolist()))
    return [(corners[box[0]][0].index(box[3]), corners[box[0]][1].index(box[4])) for box in trace.boxes.tolist()]


def _unit(trace: TraceData, number: int, frame_number: int, address: str) -> dict[str, Any]:
    item = trace.items[number]
    kind = f"{item.kind} {number + 1}" if len(trace.items) > 1 else item.kind
    frames = item.grid[0]
    return {
        "item": number,
        "frame": frame_number,
        "size": list(item.size),
        "edges": trace.edges(number),
        "first": trace.first_of(number, frame_number),
        "name": f"{kind}, frame {frame_number + 1} of {frames}" if frames > 1 else kind,
        "src": address,
    }


def _addresses(trace: TraceData, room: int) -> tuple[list[str], int]:
    """The pictures as data URIs, small enough that all of them have at most `room` bytes, as far as `SIDES` goes; and
    the longest side that they have."""
    made: list[str] = []
    side = SIDES[0]
    for side in SIDES:
        made, left = [], room
        for number, frame_number in trace.units:
            picture = trace.items[number].picture(frame_number)
            picture.thumbnail((side, side), Image.Resampling.LANCZOS)
            data, exact = encode_picture(picture, SMALL_PNG if max(picture.size) <= CRISP else 0, 82)
            made.append(f"data:image/{'png' if exact else 'jpeg'};base64,{base64.b64encode(data).decode()}")
            left -= len(made[-1])
            if left < 0 and side != SIDES[-1]:
                break
        else:
            break
    return made, side


def _alone(trace: TraceData) -> list[str]:
    """Texts of the tokens as the alternatives have theirs; where a token is none of them, what it added."""
    texts = list(trace.tokens)
    for step, ids in enumerate(() if trace.top_ids is None else trace.top_ids.tolist()):
        own = int(trace.token_ids[step])
        if own in ids:
            texts[step] = trace.top_tokens[step][ids.index(own)]
    return texts


def _log(value: Any) -> float:
    """A log-probability as JSON takes it: that of nothing is finite."""
    return round(max(float(np.nan_to_num(value, nan=-99.0)), -99.0), 3)


def asset(name: str) -> str:
    """A file of `assets/viewer`."""
    return (files("cambrian_gaze") / "assets" / "viewer" / name).read_text(encoding="utf-8")
