"""One held-out page read with dense attention, with gaze and after eviction: a trace of each, for the viewer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cambrian_gaze.baselines.registry import options_of
from cambrian_gaze.data.records.records import Record, read_records
from cambrian_gaze.evaluation.answers import answer_records
from cambrian_gaze.evaluation.journal import Journal
from cambrian_gaze.evaluation.prompts import beside_pictures, pictures_of
from cambrian_gaze.models.policies import policy_gaze
from cambrian_gaze.quickstart.arms import ARMS, TRACED, Arm
from cambrian_gaze.quickstart.evaluate import arm_options, load
from cambrian_gaze.viz.trace import Trace
from cambrian_gaze.viz.trace_record import Asked, model_facts, trace_of


def read_questions(data: Path) -> list[Record]:
    """The held-out questions that name cells; the first is the one that is shown."""
    return [record for record in read_records(data / "heldout.jsonl") if record.extra["family"] == "read"]


def write_traces(checkpoints: Mapping[str, Path], data: Path, folder: Path, device: str = "cpu") -> list[Path]:
    """Answer the first read question in each arm of `TRACED`; returns the paths of the traces, `NAME.safetensors`.

    Args:
        checkpoints: `Arm.checkpoint` → folder of the trained model and its processor.
    """
    record = read_questions(data)[0]
    loaded = {name: load(path, device) for name, path in checkpoints.items()}
    paths = []
    for arm in (arm for arm in ARMS if arm.name in TRACED):
        model, processor = loaded[arm.checkpoint]
        place = checkpoints[arm.checkpoint]
        # By its last two names: the page says which model it was, and is the same wherever the run lies.
        facts = model_facts(str(place)) | {"name": f"{place.parent.name}/{place.name}"}
        trace = trace_arm(arm, model, processor, record, data / "images", facts)
        paths.append(trace.save(folder / f"{arm.name}.safetensors"))
    return paths


def trace_arm(arm: Arm, model: Any, processor: Any, record: Record, images: Path, facts: Mapping[str, Any]) -> Trace:
    """The trace of one answer of the arm."""
    found: list[Trace] = []

    def keep(question: Any, output: Any, row: int, prompt_tokens: int) -> None:
        policy = options.policy
        asked = Asked(
            prompt=beside_pictures(question.facts["question"]),
            prompt_tokens=prompt_tokens,
            pictures=pictures_of(question.load()),
            sources=record.images,
            gaze=options.gaze if policy is None else policy_gaze(policy, options.gaze),
        )
        named = {} if policy is None else {"policy": options_of(policy)}
        found.append(trace_of(output, model, processor, asked, facts={**facts, **named}, row=row))

    options = arm_options(arm, batch_size=1, traced=keep)
    with tempfile.TemporaryDirectory() as place, Journal(Path(place) / "answer.jsonl") as journal:
        answer_records(model, processor, [record], images, journal, options)
    return found[0]
