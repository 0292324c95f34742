"""The page of `data preview`: samples with their pictures, region grids and tokens, and the errors of bad rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cambrian_gaze.data.inspect.preview import CONTROL, Picture, Preview, Token, VisualRun
from cambrian_gaze.viz import html
from cambrian_gaze.viz.draw import draw_regions
from cambrian_gaze.viz.html import Html, element

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
) -> html.Page:
    """The page. `regions`: rows and columns of visual tokens in a region, for "image" and "video"; `facts`: what the
    samples were made with."""
    page = html.Page(title, "Samples as the model sees them")
    good = [preview for preview in previews if not preview.error]
    tokens = sum(preview.num_tokens for preview in good)
    tiles = [
        ("samples shown", len(previews), f"{len(previews) - len(good)} of them cannot be used"),
        ("tokens", f"{tokens:,}", f"{tokens / len(good):,.0f} a sample" if good else ""),
        ("visual and context", _share(sum(p.num_visual for p in good), tokens), "of all tokens"),
        ("supervised", _share(sum(p.num_supervised for p in good), tokens), "of all tokens: what the loss is taken on"),
    ]
    page.section(None, html.tiles(tiles), html.facts(facts))
    for source in dict.fromkeys(preview.source for preview in previews):
        mine = [preview for preview in previews if preview.source == source]
        page.section(source, _key(), [_sample(preview, regions) for preview in mine], lead=mine[0].file)
    return page


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _key() -> Html:
    entries = [element("span", name, class_=f"token {role}") for role, name in _KEY]
    return element("div", entries, element("span", "underlined: supervised", class_="token on"), class_="key")


def _sample(preview: Preview, regions: Mapping[str, tuple[int, int]]) -> Html:
    heading = element("h3", f"row {preview.row} ", element("span", preview.id, class_="quiet"))
    if preview.error:
        written = [[element("dt", speaker), element("dd", text, class_="answer")] for speaker, text in preview.turns]
        error = element("p", preview.error, class_="error")
        return element("div", heading, error, element("dl", written) if written else None, class_="example")
    counts = f"{preview.num_tokens:,} tokens: {preview.num_visual:,} visual and context, "
    counts += f"{preview.num_tokens - preview.num_visual:,} text, {preview.num_supervised:,} of these supervised"
    pictures = [_picture(one, preview, regions) for one in preview.pictures]
    if preview.hidden_frames:
        pictures.append(html.paragraph(f"and {preview.hidden_frames} more frames", quiet=True))
    text = element("div", html.paragraph(counts, quiet=True), _tokens(preview.pieces))
    left = element("div", pictures, class_="pictures") if pictures else None
    return element("div", heading, element("div", left, text, class_="sides") if left else text, class_="example")


def _picture(picture: Picture, preview: Preview, regions: Mapping[str, tuple[int, int]]) -> Html:
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
    shown = html.picture(drawn, f"{picture.name} as the model sees it", width=side)
    return html.figure(shown, f"{picture.name}: {size}" if alone else picture.name)


def _tokens(pieces: Sequence[Token | VisualRun]) -> Html:
    spans, text_tokens = [], 0
    for piece in pieces:
        if isinstance(piece, VisualRun):
            spans.append(_visual(piece))
            continue
        text_tokens += 1
        if text_tokens <= _MAX_TOKENS:
            spans.append(_token(piece))
    left_out = max(0, text_tokens - _MAX_TOKENS)
    more = html.paragraph(f"and {left_out:,} more text tokens", quiet=True) if left_out else None
    return element("div", spans, more, class_="tokens")


def _visual(run: VisualRun) -> Html:
    rows, columns = run.grid
    visual, context = run.frames * rows * columns, run.frames * run.num_context_tokens
    text = f"{run.name}: " + (f"{run.frames} frames of " if run.frames > 1 else "") + f"{rows} x {columns}"
    if run.num_context_tokens:
        text += f" + {run.num_context_tokens}"
    title = f"tokens {run.place} to {run.place + visual + context - 1}: {visual} visual, {context} context"
    return element("span", text, class_="token visual", title=title)


def _token(token: Token) -> Html:
    kind = token.role if token.role in ("system", "user", "assistant") else CONTROL
    shown = token.text.replace("\n", "\u23ce").replace("\t", "\u21e5") or "\u00b7"
    ends_line = element("br") if token.text.endswith("\n") else None
    marks = f"token {kind} on" if token.supervised else f"token {kind}"
    title = f"token {token.place}, id {token.id}, {kind}, {'supervised' if token.supervised else 'not supervised'}"
    return html.markup([element("span", shown, class_=marks, title=title), ends_line])
