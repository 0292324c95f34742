"""The page of `data preview`: samples with their pictures, region grids and tokens, and the errors of bad rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cambrian_gaze.data.inspect.preview import CONTROL, Picture, Preview, Token, VisualRun
from cambrian_gaze.viz import html
from cambrian_gaze.viz.draw import draw_regions

_SIDE = 232
"""CSS pixels of a picture that stands alone; frames are smaller."""
_FRAME_SIDE = 112
_MAX_TOKENS = 1500
"""Text tokens shown of a sample; a page must still open."""

_KEY = (
    ("system", "system turn"),
    ("user", "user turn"),
    ("assistant", "answer"),
    (CONTROL, "special tokens and speakers"),
    ("visual", "an image or frame"),
)


def preview_page(
    title: str, previews: Sequence[Preview], regions: Mapping[str, tuple[int, int]], facts: Mapping[str, Any]
) -> str:
    """The document. `regions`: rows and columns of visual tokens in a region, for "image" and "video"; `facts`: what
    the samples were made with."""
    good = [preview for preview in previews if not preview.error]
    tokens = sum(preview.num_tokens for preview in good)
    tiles = [
        ("samples shown", len(previews), f"{len(previews) - len(good)} of them cannot be used"),
        ("tokens", f"{tokens:,}", f"{tokens / len(good):,.0f} a sample" if good else ""),
        ("visual and context", _share(sum(p.num_visual for p in good), tokens), "of all tokens"),
        ("supervised", _share(sum(p.num_supervised for p in good), tokens), "of all tokens: what the loss is taken on"),
    ]
    sources: dict[str, dict[str, Any]] = {}
    for preview in previews:
        source = {"name": preview.source, "file": preview.file, "samples": []}
        sources.setdefault(preview.source, source)["samples"].append(_sample(preview, regions))
    values = {"tiles": tiles, "facts": facts, "sources": list(sources.values()), "key": _KEY}
    return html.render("preview.html", title=title, subtitle="Samples as the model sees them", **values)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _sample(preview: Preview, regions: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """What the template shows of a sample."""
    shown = {"row": preview.row, "id": preview.id, "error": preview.error, "turns": preview.turns}
    if preview.error:
        return shown
    counts = f"{preview.num_tokens:,} tokens: {preview.num_visual:,} visual and context, "
    counts += f"{preview.num_tokens - preview.num_visual:,} text, {preview.num_supervised:,} of these supervised"
    pieces, text_tokens = [], 0
    for piece in preview.pieces:
        if isinstance(piece, VisualRun):
            pieces.append(_visual(piece))
            continue
        text_tokens += 1
        if text_tokens <= _MAX_TOKENS:
            pieces.append(_token(piece))
    return shown | {
        "counts": counts,
        "pictures": [_picture(one, preview, regions) for one in preview.pictures],
        "hidden_frames": preview.hidden_frames,
        "pieces": pieces,
        "left_out": max(0, text_tokens - _MAX_TOKENS),
    }


def _picture(picture: Picture, preview: Preview, regions: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """The picture with the borders of its regions."""
    rows, columns = preview.grid
    tall, wide = regions["video" if picture.name.startswith("video") else "image"]
    boxes = [
        (top, left, min(top + tall, rows), min(left + wide, columns))
        for top in range(0, rows, tall)
        for left in range(0, columns, wide)
    ]
    alone = len(preview.pictures) == 1
    # Drawn twice as large as shown, so that the lines stay fine on dense screens.
    side = _SIDE if alone else _FRAME_SIDE
    drawn = draw_regions(picture.image, boxes, grid_hw=(rows, columns), side=2 * side)
    size = f"{-(-rows // tall)} x {-(-columns // wide)} regions of {tall} x {wide} tokens"
    caption = f"{picture.name}: {size}" if alone else picture.name
    return {"image": drawn, "name": picture.name, "side": side, "caption": caption}


def _visual(run: VisualRun) -> dict[str, Any]:
    rows, columns = run.grid
    visual, context = run.frames * rows * columns, run.frames * run.num_context_tokens
    text = f"{run.name}: " + (f"{run.frames} frames of " if run.frames > 1 else "") + f"{rows} x {columns}"
    if run.num_context_tokens:
        text += f" + {run.num_context_tokens}"
    title = f"tokens {run.place} to {run.place + visual + context - 1}: {visual} visual, {context} context"
    return {"shown": text, "marks": "token visual", "title": title, "ends_line": False}


def _token(token: Token) -> dict[str, Any]:
    supervised = "supervised" if token.supervised else "not supervised"
    kind = token.role if token.role in ("system", "user", "assistant") else CONTROL
    return {
        "shown": token.text.replace("\n", "\u23ce").replace("\t", "\u21e5") or "\u00b7",
        "marks": f"token {kind} on" if token.supervised else f"token {kind}",
        "title": f"token {token.place}, id {token.id}, {kind}, {supervised}",
        "ends_line": token.text.endswith("\n"),
    }
