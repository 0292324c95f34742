"""Generate answers to questions, in batches, into a journal. Scoring is another step and needs no model.

The attended KV entries of every answer are those that the gaze trace counted while the answer was generated, and they
are compared with the cost model: a run that attends to more or less than it claims fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.records.records import Record
from cambrian_gaze.evaluation.attention_mass import answer_mass
from cambrian_gaze.evaluation.cost.counts import Limits, count_attended, regions_of_tokens
from cambrian_gaze.evaluation.fingerprint import processor_fingerprint, weights_fingerprint
from cambrian_gaze.evaluation.journal import Journal, entry_key
from cambrian_gaze.evaluation.prompts import modalities
from cambrian_gaze.evaluation.questions import AnswerOptions, Question, record_question
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.models.positions import check_positions

Failed = Callable[[str, Exception], object]
"""Called with the id of a question that cannot be answered, and why; the others are answered."""


def answer_questions(
    model: Any,
    processor: Any,
    questions: Sequence[Question],
    journal: Journal,
    options: AnswerOptions,
    progress: Callable[[int], object] | None = None,
    failed: Failed | None = None,
) -> list[dict[str, Any]]:
    """Answer every question that the journal does not hold yet; see `answer_records`."""
    config = options.gaze_config(model)
    todo = [question for question in questions if question.key not in journal]
    if progress is not None and len(todo) < len(questions):
        progress(len(questions) - len(todo))
    todo.sort(key=lambda question: sum(len(part.get("text", "")) for m in question.messages for part in m["content"]))
    for start in range(0, len(todo), options.batch_size):
        batch = todo[start : start + options.batch_size]
        sound, inputs = _inputs(model, processor, batch, options, failed)
        if sound:
            entries = _answer(model, processor, sound, inputs, options, config)
            for question, entry in zip(sound, entries, strict=True):
                journal.append({"key": question.key, "id": question.id, **question.facts, **entry})
        if progress is not None:
            progress(len(batch))
    return [journal[question.key] for question in questions if question.key in journal]


def check_answerable(model: Any, processor: Any, question: Question, options: AnswerOptions) -> None:
    """Raises ValueError where a question cannot be asked: a medium that cannot be read, too many tokens."""
    _inputs(model, processor, [question], options, None)


def answer_records(
    model: Any,
    processor: Any,
    records: Sequence[Record],
    folder: str | Path,
    journal: Journal,
    options: AnswerOptions,
    progress: Callable[[int], object] | None = None,
    failed: Failed | None = None,
) -> list[dict[str, Any]]:
    """Answer every record that the journal does not hold yet.

    Args:
        model: a `CambrianGazeForConditionalGeneration` in eval mode.
        processor: its `CambrianGazeProcessor`.
        records: LLaVA-format records; a last turn of the assistant is left out of the prompt.
        folder: what the records' image and video paths start from.
        journal: where answers are kept, flushed per answer, and in the order of the records at the end.
        progress: called with the number of answers each time some are there.
        failed: called for each record that cannot be answered (a picture that is missing, a prompt longer than the
            decoder's positions, a row that is no record), with an error that names file and row; the others are
            answered. None: the first such error is raised.

    Returns: the journal's entries in the order of the records, those without an answer left out: `id`, `question`,
    `reference` (the record's own answer, or None), `answer`, `tokens` (ids up to and including the end token),
    `seconds` (this answer's share of its batch), `attended` (see `count_attended`), and where kept `regions`
    ([tokens][layers][heads][K]) and `mass` (see `answer_mass`).

    Raises: RuntimeError where the counted KV entries differ from the cost model.
    """
    config = options.gaze_config(model)
    fingerprint = f"{weights_fingerprint(model)} {processor_fingerprint(processor)}"
    system = processor.system_prompt
    questions = []
    for place in range(len(records)):
        try:
            questions.append(record_question(records[place], folder, options, config, fingerprint, system))
        except ValueError as error:
            if failed is None:
                raise
            failed(f"row {place + 1}", error)
            if progress is not None:
                progress(1)
    entries = answer_questions(model, processor, questions, journal, options, progress, failed)
    for question, entry in zip([q for q in questions if q.key in journal], entries, strict=True):
        for name, fact in question.facts.items():
            entry.setdefault(name, fact)  # of a journal that an older version wrote
    journal.arrange(question.key for question in questions)
    return entries


def _inputs(
    model: Any, processor: Any, batch: list[Question], options: AnswerOptions, failed: Failed | None
) -> tuple[list[Question], Any]:
    """The questions of a batch that can be asked, and the model's inputs for them."""
    loaded = []
    for question in batch:
        try:
            loaded.append((question, question.load()))
        except ValueError as error:
            _tell(failed, question, error)
    if not loaded:
        return [], None
    inputs = _encoded(processor, loaded)
    new = options.generation.get("max_new_tokens", 0)
    fitting = []
    for pair, length in zip(loaded, inputs["attention_mask"].sum(1).tolist(), strict=True):
        try:
            check_positions(model.config, length, new)
            fitting.append(pair)
        except ValueError as error:
            _tell(failed, pair[0], error)
    if len(fitting) < len(loaded):
        inputs = _encoded(processor, fitting) if fitting else inputs
    return [question for question, _ in fitting], inputs.to(model.device)


def _encoded(processor: Any, loaded: list[tuple[Question, list[dict[str, Any]]]]) -> Any:
    return processor.apply_chat_template(
        [messages for _, messages in loaded], add_generation_prompt=True, tokenize=True
    )


def _tell(failed: Failed | None, question: Question, error: ValueError) -> None:
    """Hand an error on, with its place; raise it where nobody takes it."""
    if question.place is not None:
        placed = error if isinstance(error, RecordError) else RecordError(str(error))
        error = placed.at(*question.place)
    elif not isinstance(error, RecordError):
        error = ValueError(f"{question.id}: {error}")
    if failed is None:
        raise error
    failed(question.id, error)


@torch.no_grad()
def _answer(
    model: Any,
    processor: Any,
    batch: list[Question],
    inputs: Any,
    options: AnswerOptions,
    config: GazeConfig,
) -> list[dict[str, Any]]:
    """The journal entries of one batch, less key, id and facts."""
    if options.blank_images and "pixel_values" in inputs:
        inputs["pixel_values"] = torch.zeros_like(inputs["pixel_values"])  # 0 is the mean colour, normalised
    if options.seed is not None:
        torch.manual_seed(int(entry_key(seed=options.seed, keys=[question.key for question in batch])[:16], 16))
    policy = None if options.policy is None else options.policy.with_tokenizer(processor.tokenizer)
    keywords = {**inputs, **options.generation, "output_logits": options.traced is not None}
    if any(question.hidden for question in batch):
        keywords["hidden_regions"] = _hidden([question.hidden for question in batch], model.device)
    measured = True if options.traced is None else "weights"
    keywords["return_gaze"] = "mass" if options.keep_mass else measured
    seconds, output = _timed(model.device, lambda: model.generate(**keywords, gaze=options.gaze, policy=policy))
    retained = output.get("retained")
    ends = model.generation_config.eos_token_id
    new_tokens = output.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    kept = [_up_to_end(tokens, ends if isinstance(ends, list) else [ends]) for tokens in new_tokens]
    total = sum(len(tokens) for tokens in kept)
    grids = [tuple(grid) for grid in inputs["grid_thw"].tolist()] if "grid_thw" in inputs else []
    entries = []
    for row, (question, tokens) in enumerate(zip(batch, kept, strict=True)):
        kinds = modalities(question.messages)
        own, grids = grids[: len(kinds)], grids[len(kinds) :]
        limits = Limits(policy, None if retained is None else retained[row], question.hidden)
        entry = {
            "answer": processor.decode(tokens, skip_special_tokens=True),
            "tokens": tokens,
            "seconds": seconds * len(tokens) / total,
            "attended": count_attended(output.gaze, row, len(tokens), own, kinds, config, limits),
        }
        if options.keep_regions:
            entry["regions"] = output.gaze.regions[row, : len(tokens)].tolist()
        if options.keep_mass:
            entry["mass"] = answer_mass(output.gaze, row, len(tokens), regions_of_tokens(own, kinds, config))
        if options.traced is not None:
            options.traced(question, output, row, inputs["input_ids"].shape[1])
        entries.append(entry)
    return entries


def _hidden(rows: list[frozenset[int]], device: torch.device) -> torch.Tensor:
    """bool [B, 1 + the highest number]: the regions hidden from each row."""
    hidden = torch.zeros(len(rows), 1 + max(max(row, default=0) for row in rows), dtype=torch.bool)
    for place, row in enumerate(rows):
        hidden[place, sorted(row)] = True
    return hidden.to(device)


def _timed(device: torch.device, call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that `call` takes on the device, and what it returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, result


def _up_to_end(tokens: list[int], ends: list[int | None]) -> list[int]:
    """The tokens up to and including the first end token."""
    for place, token in enumerate(tokens):
        if token in ends:
            return tokens[: place + 1]
    return tokens
