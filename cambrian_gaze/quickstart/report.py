"""The quickstart's report: results, pages with the gaze of every generated token, recall, training curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from cambrian_gaze.data.media.aspect import model_view
from cambrian_gaze.data.records.records import Record
from cambrian_gaze.files import write_png
from cambrian_gaze.quickstart.arms import ARMS, CHANCE, CHOOSING_ONCE, TRACED
from cambrian_gaze.quickstart.evaluate import cell_regions, load_processor, value_steps
from cambrian_gaze.quickstart.traces import read_questions
from cambrian_gaze.training.metrics.log import read_log
from cambrian_gaze.viz.charts.charts import Series
from cambrian_gaze.viz.figure import figure
from cambrian_gaze.viz.html import Table
from cambrian_gaze.viz.overlay import PanelLook, TokenPanel, gaze_strip, token_panels
from cambrian_gaze.viz.panes import write_panes
from cambrian_gaze.viz.render import overlay
from cambrian_gaze.viz.report import (
    AnswerToken,
    Curve,
    Example,
    Link,
    Recall,
    Report,
    arms_intervals,
    arms_table,
    write_report,
)
from cambrian_gaze.viz.trace import Trace

SHOWN_ARM = "gaze_k2"
PICTURE_TOKENS = 8
"""Values shown in `gaze.png`."""
VIEWER = "viewer.html"
"""The interactive page beside the report."""


class StoredTrace:
    """The gaze of one answer, read back from a journal."""

    def __init__(self, regions: Sequence[Any], grid_hw: tuple[int, int], region_size: tuple[int, int, int]) -> None:
        self.regions = torch.tensor(regions)[None]
        """int64 [1, tokens, layers, heads, K]."""
        height, width = grid_hw
        _, r_h, r_w = region_size
        self._boxes = [
            (0, 0, 1, top, left, min(top + r_h, height), min(left + r_w, width))
            for top in range(0, height, r_h)
            for left in range(0, width, r_w)
        ]

    def region_boxes(self, batch_index: int) -> list[tuple[int, ...]]:
        """(item, frame0, frame1, top, left, bottom, right) of every region, in visual tokens."""
        return self._boxes

    def of_head(self, layer: int, head: int) -> StoredTrace:
        """The gaze of one head alone."""
        single = object.__new__(StoredTrace)
        single.regions = self.regions[:, :, layer : layer + 1, head : head + 1]
        single._boxes = self._boxes
        return single


class ShownAnswer:
    """One held-out answer with all that the report shows of it."""

    def __init__(
        self, record: Record, answer: Mapping[str, Any], processor: Any, region_size: tuple[int, int, int], data: Path
    ) -> None:
        self.record = record
        with Image.open(data / "images" / record.images[0]) as image:
            mean = processor.image_processor.image_mean
            self.image = model_view(image.convert("RGB"), processor.image_aspect_ratio, mean)
        self.question = record.conversations[0]["value"].replace("<image>", "").strip()
        self.text = answer["answer"]
        self.tokens = [processor.decode([token]) for token in answer["tokens"]]
        self.trace = StoredTrace(answer["regions"], processor.grid_hw, region_size)
        regions = cell_regions(processor.grid_hw, region_size)
        self.truth = {address: int(value) for address, value in record.extra["target"]}
        self.values = [(step, a, v) for step, a, v in value_steps(answer, processor) if a in self.truth]
        self.asked: list[int | None] = [None] * len(self.tokens)
        self.correct: list[bool | None] = [None] * len(self.tokens)
        for step, address, value in self.values:
            self.asked[step] = regions[address]
            self.correct[step] = value == self.truth[address]

    def labels(self) -> list[str]:
        """Token texts for pictures; a value carries the address that it answers."""
        named = {step: f"{address} {value}" for step, address, value in self.values}
        return [named.get(step, token) for step, token in enumerate(self.tokens)]

    def answer_tokens(self) -> list[AnswerToken]:
        """The answer in pieces, its values judged."""
        truths = {step: f"{self.truth[address]}" for step, address, _ in self.values}
        return [
            AnswerToken(token, truths.get(step))
            for step, token in enumerate(self.tokens)
            if not (token.startswith("<|") and token.endswith("|>"))
        ]

    def panels(self, trace: StoredTrace, steps: Sequence[int]) -> list[TokenPanel]:
        """The pictures of the gaze at some steps."""
        return token_panels(
            trace,
            self.labels(),
            self.image,
            select=steps,
            asked=self.asked,
            correct=self.correct,
            look=PanelLook(side=128),
        )

    def example(self, title: str, head: tuple[int, int] | None, steps: Sequence[int], note: str = "") -> Example:
        """This answer in the report, with the gaze of all heads or of one."""
        trace = self.trace if head is None else self.trace.of_head(*head)
        return Example(self.question, self.answer_tokens(), self.image, self.panels(trace, steps), title, note=note)


def build_report(
    output: Path, results: Mapping[str, Any], data: Path, checkpoint: Path, logs: Mapping[str, Path]
) -> Path:
    """Write `report.html`, `viewer.html` and `gaze.png` to `output`, which holds answers and traces.

    Args:
        results: the content of `results.json`.
        checkpoint: the gaze model's folder.
        logs: name of a training run → its folder.
    """
    recall = results["arms"][SHOWN_ARM]["routing_recall"]
    best = recall["best"]
    head = None if best["layer"] is None else (best["layer"], best["head"])
    shown = _shown_answers(output, data, checkpoint, count=3)
    first = shown[0]
    every_step = range(len(first.tokens))
    examples = [first.example("All heads and layers", None, every_step)]
    if head is not None:
        note = f"Layer {head[0]}, head {head[1]}: the head that finds the asked cell most often."
        values = [step for step, _, _ in first.values]
        examples.append(first.example("The values of the same answer, the best head alone", head, values, note))
    more = [
        other.example(f"Page {other.record.extra['page']}", head, [step for step, _, _ in other.values])
        for other in shown[1:]
    ]
    title = "Cambrian-Gaze quickstart"
    if results["smoke"]:
        title += " (smoke run: shows that everything runs, claims nothing)"
    report = Report(
        title=title,
        subtitle="Pages of handwritten digits that no training page showed, read through the gaze cache",
        summary=[]
        if results["smoke"]
        else [f"{'yes' if holds else 'no'}: {line}" for line, holds in results["checks"].items()],
        tiles=_tiles(results),
        tables=[_table(results)],
        intervals=[
            arms_intervals(
                results["arms"],
                _titles(),
                strong=[SHOWN_ARM],
                references={"chance": CHANCE},
                title="Read values: accuracy with 95 % interval (bootstrap over pages)",
            )
        ],
        pages=[_viewer(output, first)],
        examples=examples,
        more_examples=more,
        recalls=_recalls(results),
        curves=_curves(logs),
        facts={
            **results["hardware"],
            "gpu": results["hardware"]["gpu"] or "none",
            **results["versions"],
            **_seconds(results),
        },
    )
    write_png(output / "gaze.png", _picture(first, head))
    return write_report(output / "report.html", report)


def _shown_answers(output: Path, data: Path, checkpoint: Path, count: int) -> list[ShownAnswer]:
    """The first read answers of the shown arm."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    processor = load_processor(checkpoint)
    lines = (output / "answers" / f"{SHOWN_ARM}.jsonl").read_text(encoding="utf-8").splitlines()
    answers = {answer["id"]: answer for answer in map(json.loads, lines)}
    reads = [record for record in read_questions(data) if record.id in answers]
    size = tuple(config["gaze"]["image"]["region_size"])
    return [ShownAnswer(record, answers[record.id], processor, size, data) for record in reads[:count]]


def _viewer(output: Path, first: ShownAnswer) -> Link:
    """Write the page that shows the traces beside each other; what the report says of it."""
    titles = _titles()
    traces = [(titles[name], Trace.load(output / "traces" / f"{name}.safetensors")) for name in TRACED]
    page = write_panes(output / VIEWER, traces)
    step = first.values[0][0] if first.values else 0
    pictures = []
    for title, trace in traces:
        [[panel]] = figure(trace, tokens=[min(step, len(trace.tokens) - 1)]).rows
        pictures.append((title, overlay(trace, panel, factor=5)))
    return Link(
        page.name,
        "Open the first of these pages in the viewer",
        "Dense attention, gaze, and what an eviction policy kept, in three panes that go together: point at a word, "
        "pick a layer or a head.",
        pictures,
    )


def _picture(shown: ShownAnswer, head: tuple[int, int] | None) -> Image.Image:
    """Some values of one answer, and where the model looked while it wrote each."""
    trace = shown.trace if head is None else shown.trace.of_head(*head)
    steps = [step for step, _, _ in shown.values][:PICTURE_TOKENS] or range(min(PICTURE_TOKENS, len(shown.tokens)))
    return gaze_strip(
        trace,
        shown.labels(),
        shown.image,
        select=steps,
        asked=shown.asked,
        correct=shown.correct,
        look=PanelLook(side=192),
        columns=PICTURE_TOKENS // 2,
        title=shown.text,
    )


def _titles() -> dict[str, str]:
    return {arm.name: arm.title for arm in ARMS}


def _table(results: Mapping[str, Any]) -> Table:
    return arms_table(
        results["arms"],
        _titles(),
        strong=["dense", SHOWN_ARM],
        title="Held-out pages, answers by generation",
        note="Attended visual KV: entries per text query, layer and head, context tokens included, as counted during "
        "generation and equal to the cost model. In memory: visual tokens that the rest of the answer could still see, "
        "per layer and KV head; gaze keeps all and looks anew at each step, a policy keeps what it chose once. Global: "
        "how many cells of the page hold each of the ten digits.",
    )


def _tiles(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    dense, gaze = results["arms"]["dense"], results["arms"][SHOWN_ARM]
    recall = gaze["routing_recall"]
    once = max((results["arms"][name] for name in CHOOSING_ONCE), key=lambda arm: arm["accuracy"])
    return [
        ("Gaze, K=2 of 16", f"{gaze['accuracy']:.1%}", f"of {gaze['n']:,} values read"),
        ("Dense attention", f"{dense['accuracy']:.1%}", "same data, steps and seed"),
        ("Best of what is chosen once", f"{once['accuracy']:.1%}", once["title"]),
        ("Attended visual KV", f"{gaze['attended_visual_kv']:g}", f"of {gaze['visual_tokens']} visual tokens"),
        ("Best head's recall", f"{recall['best']['recall']:.1%}", f"chance {recall['chance']:.1%}"),
    ]


def _recalls(results: Mapping[str, Any]) -> list[Recall]:
    recalls = []
    for arm in ARMS:
        recall = results["arms"].get(arm.name, {}).get("routing_recall")
        if recall and recall["table"] and arm.name in (SHOWN_ARM, "dense_routed_k2"):
            recalls.append(Recall(recall["table"], recall["chance"], arm.title, f"{recall['n']:,} values"))
    return recalls


def _curves(logs: Mapping[str, Path]) -> list[Curve]:
    losses, kept = [], []
    for name, folder in logs.items():
        lines = read_log(folder)
        steps = [line["step"] for line in lines]
        losses.append(Series(name, steps, [line["loss"] for line in lines]))
        routed = [line for line in lines if line.get("k") is not None]
        if routed:
            kept.append(Series(name, [r["step"] for r in routed], [r["k"] for r in routed], step=True))
    curves = [Curve("Loss", losses, y_label="cross-entropy, mean since the point before", log_y=True)]
    if kept:
        curves.append(Curve("Regions kept (K)", kept, y_label="K of 16", y_min=0))
    return curves


def _seconds(results: Mapping[str, Any]) -> dict[str, str]:
    return {f"time, {name}": f"{seconds:,.0f} s" for name, seconds in results["step_seconds"].items()} | {
        "time, in all": f"{results['seconds']:,.0f} s"
    }
