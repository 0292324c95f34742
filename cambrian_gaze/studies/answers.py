"""A study's arms answer its questions: which values are right, how much was seen, where the heads looked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cambrian_gaze.data.records.records import Record, read_records
from cambrian_gaze.evaluation.scorers.gazebench import right_values
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import IMAGE, VIDEO
from cambrian_gaze.gaze.regions import region_grid
from cambrian_gaze.gazebench.mask import mask_pictures
from cambrian_gaze.gazebench.spec import GazeBenchSpec
from cambrian_gaze.quickstart.evaluate import answer_arm, load
from cambrian_gaze.studies.parts import Parts
from cambrian_gaze.studies.routing.mass import attention_mass
from cambrian_gaze.studies.routing.recall import routing_recall
from cambrian_gaze.studies.routing.shifts import gaze_shifts
from cambrian_gaze.studies.routing.unions import region_unions
from cambrian_gaze.studies.steering import Steered, steer


def answer_seed(parts: Parts, folder: Path) -> dict[str, dict[str, Any]]:
    """Answer every question of a seed in every arm, into journals of `folder`; what they hold is not answered again.

    Returns: arm → `right` (family → one string of 0 and 1 per question, a character per value), `visible` and
    `retained` visual entries, `context` entries, seconds; of an arm that is steered `steered`, the questions that allow
    it, and `places` (family → which value's region is hidden, or would be, by question; None where no single one);
    where regions were chosen `recall`, `shifts` and `unions`; and of the study's `routing` arms `mass`.
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
            config = model.config.gaze_config.override(**arm.gaze)
            known = places_known(config, processor.grid_hw, parts.bench)
            steered = _steered(study.steered.get(arm.name), records, known)
            hidden = {record.id: one.hidden for record, one in zip(records, steered, strict=True)} if steered else {}
            more = {"hidden": hidden, "keep_mass": arm.name in study.routing}
            answers = answer_arm(arm, model, processor, records, media, folder, parts.size.batch_size, **more)
            entry = _entry(records, answers)
            if steered:
                entry |= _places(records, steered)
            if known and arm.keeps_regions:
                heads = model.config.text_config.num_key_value_heads
                entry |= _looks(records, answers, processor.tokenizer, heads)
            if arm.name in study.routing:
                entry["mass"] = attention_mass(records, answers, processor.tokenizer)
            results[arm.name] = json.loads(json.dumps(entry))
    return {arm.name: results[arm.name] for arm in study.arms}


def places_known(config: GazeConfig, grid_hw: tuple[int, int], bench: GazeBenchSpec) -> bool:
    """Whether the model's regions are those in which GazeBench says where an answer is read from."""
    sizes = {config.budget(kind).region_size for kind in (IMAGE, VIDEO)}
    return all(size[0] == 1 and region_grid((1, *grid_hw), size)[1:] == bench.regions for size in sizes)


def _steered(how: str | None, records: Sequence[Record], known: bool) -> list[Steered]:
    """Empty where nothing is steered."""
    if how is None:
        return []
    if not known:
        raise ValueError("regions can be hidden only where the model has the same ones as the data: leave region_size")
    return [steer(record, how) for record in records]


def _places(records: Sequence[Record], steered: Sequence[Steered]) -> dict[str, Any]:
    places: dict[str, list[int | None]] = {}
    for record, one in zip(records, steered, strict=True):
        places.setdefault(record.extra["family"], []).append(one.place)
    return {"places": places, "steered": sum(bool(one.hidden) for one in steered)}


def _looks(
    records: Sequence[Record], answers: Sequence[Mapping[str, Any]], tokenizer: Any, kv_heads: int
) -> dict[str, Any]:
    return {
        "recall": routing_recall(records, answers, tokenizer),
        "shifts": gaze_shifts(records, answers, tokenizer),
        "unions": region_unions(records, answers, kv_heads),
    }


def _entry(records: Sequence[Record], answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    right: dict[str, list[str]] = {}
    for record, answer in zip(records, answers, strict=True):
        flags = right_values(answer["answer"], record.extra["meta"])
        right.setdefault(record.extra["family"], []).append("".join(str(int(flag)) for flag in flags))
    attended = [answer["attended"] for answer in answers]
    return {
        "right": right,
        "visible": _mean(a["visual"] for a in attended),
        "context": _mean(a["context"] for a in attended),
        "retained": _mean(a.get("retained", a["of"]) for a in attended),
        "of": _mean(a["of"] for a in attended),
        "seconds": sum(answer["seconds"] for answer in answers),
    }


def _mean(values: Any) -> float:
    values = list(values)
    return sum(values) / len(values)
