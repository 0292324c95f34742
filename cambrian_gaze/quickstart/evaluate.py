"""Held-out evaluation of every arm: answers through the gaze cache, then scores from the journals alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from cambrian_gaze.attention.policy.policy import VisiblePolicy
from cambrian_gaze.baselines.registry import make_policy
from cambrian_gaze.data.records.records import Record, read_records
from cambrian_gaze.evaluation.answers import answer_records
from cambrian_gaze.evaluation.cost.counts import expected_attended
from cambrian_gaze.evaluation.journal import Journal
from cambrian_gaze.evaluation.questions import AnswerOptions
from cambrian_gaze.evaluation.recall import RoutingRecall
from cambrian_gaze.evaluation.scorers.named_values import named_values, score_named_values
from cambrian_gaze.evaluation.tables.intervals import Group, accuracy, bootstrap_interval, paired_interval
from cambrian_gaze.gaze.cost import attended_visual
from cambrian_gaze.gaze.regions import region_ids
from cambrian_gaze.quickstart.arms import Arm
from cambrian_gaze.quickstart.task import ADDRESSES, COLUMNS, ROWS

MAX_NEW_TOKENS = 48
"""Longest answer: one word, 16 addresses, 16 values, the end token, and some room to be wrong in."""


def evaluate_arms(
    arms: Sequence[Arm],
    checkpoints: Mapping[str, Path],
    data: Path,
    journals: Path,
    device: str = "cpu",
    batch_size: int = 128,
) -> dict[str, dict[str, Any]]:
    """Answer all held-out questions of `data` in every arm and score them.

    Args:
        checkpoints: `Arm.checkpoint` → folder of the trained model and its processor.
        journals: folder of the answers, `NAME.jsonl` per arm; answers that it holds already are not given again.

    Returns: arm name → its entry of `results.json`, in the order of `arms`. Every other arm also has
    `behind_dense`, the accuracy of the dense arm less its own, paired by page: `difference` and `ci95`.
    """
    records = list(read_records(data / "heldout.jsonl"))
    results, reads = {}, {}
    for name, group in groupby(sorted(arms, key=lambda arm: arm.checkpoint), key=lambda arm: arm.checkpoint):
        model, processor = load(checkpoints[name], device)
        for arm in group:
            answers = answer_arm(arm, model, processor, records, data / "images", journals, batch_size)
            layers = model.config.text_config.num_hidden_layers
            results[arm.name] = score_arm(arm, records, answers, model.config.gaze_config, processor, layers)
            reads[arm.name] = list(score_family("read", records, answers).values())
    for name in results.keys() - {"dense"}:
        results[name]["behind_dense"] = {
            "difference": results["dense"]["accuracy"] - results[name]["accuracy"],
            "ci95": list(paired_interval(reads["dense"], reads[name])),
        }
    return {arm.name: results[arm.name] for arm in arms}


def load(checkpoint: Path, device: str) -> tuple[Any, Any]:
    """A trained model in eval mode and its processor."""
    from cambrian_gaze import CambrianGazeForConditionalGeneration

    model = CambrianGazeForConditionalGeneration.from_pretrained(checkpoint).to(device).eval()
    return model, load_processor(checkpoint)


def load_processor(checkpoint: Path) -> Any:
    """The processor saved beside a model."""
    from cambrian_gaze import CambrianGazeProcessor

    return CambrianGazeProcessor.from_pretrained(checkpoint)


def answer_arm(
    arm: Arm,
    model: Any,
    processor: Any,
    records: Sequence[Record],
    images: Path,
    journals: Path,
    batch_size: int,
    **more: Any,
) -> list[dict[str, Any]]:
    """The arm's answers in the order of the records, with a progress bar. more: other fields of `AnswerOptions`."""
    from tqdm import tqdm

    options = arm_options(arm, batch_size, **more)
    with (
        Journal(journals / f"{arm.name}.jsonl") as journal,
        tqdm(total=len(records), desc=f"{arm.name:18s}", unit="answer") as bar,
    ):
        return answer_records(model, processor, records, images, journal, options, bar.update)


def arm_options(arm: Arm, batch_size: int, **more: Any) -> AnswerOptions:
    """How the arm answers; more: other fields of `AnswerOptions`."""
    return AnswerOptions(
        generation={"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False},
        gaze=dict(arm.gaze),
        policy=policy_of(arm),
        blank_images=arm.blind,
        keep_regions=arm.keeps_regions,
        batch_size=batch_size,
        **more,
    )


def policy_of(arm: Arm) -> VisiblePolicy | None:
    """The arm's policy."""
    options = dict(arm.policy)
    return make_policy(options.pop("name"), options) if options else None


def score_arm(
    arm: Arm, records: Sequence[Record], answers: Sequence[Mapping[str, Any]], config: Any, processor: Any, layers: int
) -> dict[str, Any]:
    """The arm's entry of `results.json`. Accuracy is over read values; global questions stand apart."""
    reads = list(score_family("read", records, answers).values())
    counts = list(score_family("count", records, answers).values())
    attended = [answer["attended"] for answer in answers]
    page, policy = (1, *processor.grid_hw), policy_of(arm)
    if policy is None:
        promised = attended_visual([page], config.override(**arm.gaze)).total
    else:
        _, most, context = expected_attended(page, config, layers, policy=policy)
        promised = most + context
    entry = {
        "accuracy": accuracy(reads),
        "ci95": list(bootstrap_interval(reads)),
        "accuracy_global": accuracy(counts),
        "ci95_global": list(bootstrap_interval(counts)),
        "attended_visual_kv": sum(a["visual"] + a["context"] for a in attended) / len(attended),
        "attended_context_kv": sum(a["context"] for a in attended) / len(attended),
        "cost_model_kv": promised,
        "retained_visual_kv": sum(a.get("retained", a["of"]) for a in attended) / len(attended),
        "visual_tokens": attended[0]["of"],
        "tokens_per_s": sum(len(a["tokens"]) for a in answers) / sum(a["seconds"] for a in answers),
        "n": sum(n for _, n in reads),
        "n_global": sum(n for _, n in counts),
        "title": arm.title,
    }
    if arm.keeps_regions:
        entry["routing_recall"] = routing_recall(arm, records, answers, config, processor)
    return entry


def score_family(family: str, records: Sequence[Record], answers: Sequence[Mapping[str, Any]]) -> dict[str, Group]:
    """Values of one family of questions by page: page → (right, asked)."""
    groups: dict[str, Group] = {}
    for record, answer in zip(records, answers, strict=True):
        if record.extra["family"] == family:
            right = score_named_values(answer["answer"], [tuple(pair) for pair in record.extra["target"]])
            before = groups.get(record.extra["page"], (0, 0))
            groups[record.extra["page"]] = (before[0] + sum(right.values()), before[1] + len(right))
    return groups


def routing_recall(
    arm: Arm, records: Sequence[Record], answers: Sequence[Mapping[str, Any]], config: Any, processor: Any
) -> dict[str, Any]:
    """How often each head has the asked cell's region among its K, for the query that predicts the cell's value."""
    regions = cell_regions(processor.grid_hw, config.image.region_size)
    recall = RoutingRecall()
    for record, answer in zip(records, answers, strict=True):
        if record.extra["family"] == "read":
            for step, address, _ in value_steps(answer, processor):
                recall.add(answer["regions"][step], regions[address])
    chance = arm.gaze["top_k"] / len(set(regions.values()))
    if recall.pairs == 0:
        return {"chance": chance, "n": 0, "table": [], "best": {"layer": None, "head": None, "recall": 0.0}}
    layer, head, best = recall.best
    return {
        "chance": chance,
        "n": recall.pairs,
        "table": recall.table,
        "best": {"layer": layer, "head": head, "recall": best},
    }


def value_steps(answer: Mapping[str, Any], processor: Any) -> list[tuple[int, str, int]]:
    """(place among the generated tokens, address, value) of each value that the answer names."""
    tokens = answer["tokens"]
    starts = [len(processor.decode(tokens[:n], skip_special_tokens=True)) for n in range(len(tokens))]
    steps = []
    for address, value, character in named_values(answer["answer"]):
        if address in ADDRESSES:
            steps.append((max(n for n, start in enumerate(starts) if start <= character), address, value))
    return steps


def cell_regions(grid_hw: tuple[int, int], region_size: tuple[int, int, int]) -> dict[str, int]:
    """The region that covers the middle of each cell, by address."""
    height, width = grid_hw
    ids = region_ids((1, height, width), region_size)[0]
    places = [(row, column) for row in range(len(ROWS)) for column in range(len(COLUMNS))]
    return {
        address: int(ids[(2 * row + 1) * height // (2 * len(ROWS)), (2 * column + 1) * width // (2 * len(COLUMNS))])
        for address, (row, column) in zip(ADDRESSES, places, strict=True)
    }
