"""A study's arms answer its questions: which values are right, how much was seen, where the heads looked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze.data.records.records import Record, read_records
from cambrian_gaze.evaluation.scorers.gazebench import right_values
from cambrian_gaze.gazebench.mask import mask_pictures
from cambrian_gaze.quickstart.arms import Arm
from cambrian_gaze.quickstart.evaluate import answer_arm, load
from cambrian_gaze.studies.parts import Parts
from cambrian_gaze.studies.recall import routing_recall


def answer_seed(parts: Parts, folder: Path) -> dict[str, dict[str, Any]]:
    """Answer every question of a seed in every arm, into journals of `folder`; what they hold is not answered again.

    Returns: arm → `right` (family → one string of 0 and 1 per question, a character per value), `visible` and
    `retained` visual entries, `context` entries, seconds, and where regions were chosen `recall`.
    """
    study, data = parts.study, parts.data().folder
    records = [record for family in parts.bench.families for record in read_records(data / family / "test.jsonl")]
    masked = mask_pictures(data, parts.bench, "test") if study.masked else None
    results: dict[str, dict[str, Any]] = {}
    for name in study.models:
        arms = [arm for arm in study.arms if arm.checkpoint == name]
        if not arms:
            continue
        model, processor = load(parts.model(name).folder, parts.device)
        for arm in arms:
            media = masked if arm.name in study.masked else data
            answers = answer_arm(arm, model, processor, records, media, folder, parts.size.batch_size)
            results[arm.name] = _entry(arm, records, answers, processor)
    return {arm.name: results[arm.name] for arm in study.arms}


def _entry(arm: Arm, records: Sequence[Record], answers: Sequence[Mapping[str, Any]], processor: Any) -> dict[str, Any]:
    right: dict[str, list[str]] = {}
    for record, answer in zip(records, answers, strict=True):
        flags = right_values(answer["answer"], record.extra["meta"])
        right.setdefault(record.extra["family"], []).append("".join(str(int(flag)) for flag in flags))
    attended = [answer["attended"] for answer in answers]
    entry = {
        "right": right,
        "visible": _mean(a["visual"] for a in attended),
        "context": _mean(a["context"] for a in attended),
        "retained": _mean(a.get("retained", a["of"]) for a in attended),
        "of": _mean(a["of"] for a in attended),
        "seconds": sum(answer["seconds"] for answer in answers),
    }
    if answers and "regions" in answers[0]:
        entry["recall"] = routing_recall(records, answers, processor.tokenizer)
    return json.loads(json.dumps(entry))


def _mean(values: Any) -> float:
    values = list(values)
    return sum(values) / len(values)
