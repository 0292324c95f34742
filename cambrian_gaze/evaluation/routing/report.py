"""Routing figures as Markdown and JSON, the judged tokens as JSONL, and the captions in the form that is read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cambrian_gaze.evaluation.routing.measure import Judged
from cambrian_gaze.evaluation.routing.records import RoutingRecord
from cambrian_gaze.files import write_text

_HEAD = (
    "layer", "mean head", "95 % CI", "any head", "95 % CI", "best head", "random", "random, any head", "mask covered",
    "random",
)  # fmt: skip


def write_reports(
    figures: dict[str, Any],
    about: dict[str, Any],
    records: Sequence[RoutingRecord],
    judged: Sequence[Judged],
    output: Path,
) -> str:
    """Write `routing.md`, `routing.json`, `tokens.jsonl` and `captions.jsonl` below `output`; returns the Markdown."""
    text = markdown(figures, about)
    write_text(output / "routing.md", text)
    write_text(output / "routing.json", json.dumps({**about, **figures}, indent=2, ensure_ascii=False) + "\n")
    write_text(output / "tokens.jsonl", "".join(f"{line}\n" for one in judged for line in _tokens(one)))
    write_text(output / "captions.jsonl", "".join(f"{_caption(*both)}\n" for both in zip(records, judged, strict=True)))
    return text


def markdown(figures: dict[str, Any], about: dict[str, Any]) -> str:
    """The figures for readers."""
    best, overall = figures["best_head"], figures["any_head_any_layer"]
    lines = [
        f"# Routing accuracy: {about['model']}",
        "",
        f"{figures['tokens']} tokens of {figures['pictures']} captions belong to a phrase with a mask; "
        f"{figures['phrases_absent']} phrases stand in no caption. A token is right when one of the regions that the "
        "query predicting it looks at overlaps the mask of its phrase. 95 % intervals: bootstrap over pictures. "
        "Random: as many regions drawn for each token; mean ± sd over seeds.",
        "",
        f"Best head: layer {best['layer']}, head {best['head']}: {_percent(best)}. Any head of any layer: "
        f"{_percent(overall)}.",
        "",
        *_table(_HEAD, [_row(layer) for layer in figures["layers"]]),
    ]
    if figures["kinds"]:
        rows = [
            [kind, f"{one['tokens']}", f"{one['overall_best_head']:.1%}", _percent(one["own_best_head"]),
             f"{one['own_best_head']['layer']}.{one['own_best_head']['head']}"]
            for kind, one in figures["kinds"].items()
        ]  # fmt: skip
        head = ("kind of phrase", "tokens", "best head", "its own best head", "layer.head")
        lines += ["", "## By kind", "", *_table(head, rows)]
    hidden = figures["counterfactual"]
    if hidden is not None:
        lines += ["", "## Regions hidden", ""]
        if hidden["tokens"]:
            lines += [
                f"Log-probability of a token falls by {_nats(hidden['own'])} when the regions of its phrase are hidden "
                f"from all text queries, by {_nats(hidden['others'])} when as many others are; difference "
                f"{_nats(hidden['difference'])}. {hidden['tokens']} tokens.",
                "",
            ]
        lines.append(
            f"{hidden['phrases_not_compared']} phrases were not compared: their masks lie in more than half of the "
            "regions."
        )
    return "\n".join(lines) + "\n"


def _row(layer: dict[str, Any]) -> list[str]:
    mean, some = layer["mean_head"], layer["any_head"]
    heads = layer["heads"]
    return [
        f"{layer['layer']}",
        f"{mean['value']:.1%}",
        _ends(mean),
        f"{some['value']:.1%}",
        _ends(some),
        f"{max(heads):.1%} ({heads.index(max(heads))})",
        f"{layer['random']['mean']:.1%} ± {layer['random']['sd']:.1%}",
        f"{layer['random_any_head']['mean']:.1%} ± {layer['random_any_head']['sd']:.1%}",
        f"{layer['mask_share']['value']:.1%}",
        f"{layer['random_mask_share']:.1%}",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def _ends(figure: dict[str, Any]) -> str:
    return "{:.1%} – {:.1%}".format(*figure["ci95"])


def _percent(figure: dict[str, Any]) -> str:
    return f"{figure['value']:.1%} ({_ends(figure)})"


def _nats(figure: dict[str, Any]) -> str:
    return "{:.3f} ({:.3f} – {:.3f})".format(figure["value"], *figure["ci95"])


def _tokens(one: Judged) -> Iterator[str]:
    for number, place in enumerate(one.places):
        yield json.dumps(
            {
                "id": one.id, "place": place, "token": one.texts[number], "phrase": one.phrases[number],
                "kind": one.kinds[number], "overlapping": int(one.overlapping[number]), "regions": one.regions,
                "log_prob": _number(one.log_probs[number]), "drop": _number(one.drop[number]),
                "drop_others": _number(one.drop_others[number]),
                "hits": dict(zip(map(str, one.layers), one.hits[number].astype(int).tolist(), strict=True)),
            },
            ensure_ascii=False,
        )  # fmt: skip


def _caption(record: RoutingRecord, one: Judged) -> str:
    phrases = []
    for phrase, spans in zip(record.phrases, one.spans, strict=True):
        values = {name: value for name, value in dataclasses.asdict(phrase).items() if value or name == "masks"}
        phrases.append({**values, "masks": list(phrase.masks), "spans": [list(span) for span in spans]})
    known = {"id": record.id, "image": record.image, "prompt": record.prompt, "caption": one.caption}
    return json.dumps({**known, "phrases": phrases}, ensure_ascii=False)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
