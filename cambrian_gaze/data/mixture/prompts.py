"""Prompt options of a source: a system prompt, and a suffix of the question."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from cambrian_gaze.data.records.forms import ROLES
from cambrian_gaze.data.records.records import Record, RecordSequence


class PromptedRecords(RecordSequence):
    """Records with the prompt options of their source; a bad row stays the error that it is."""

    def __init__(self, records: RecordSequence, system_prompt: str | None, prompt_suffix: str | None) -> None:
        self.records, self.system_prompt, self.prompt_suffix = records, system_prompt, prompt_suffix
        self.file = records.file

    def __len__(self) -> int:
        return len(self.records)

    def record(self, index: int) -> Record:
        return add_prompts(self.records.record(index), self.system_prompt, self.prompt_suffix)

    def row_numbers(self) -> np.ndarray:
        return self.records.row_numbers()

    def identity(self) -> dict[str, Any]:
        return {**self.records.identity(), "prompts": [self.system_prompt, self.prompt_suffix]}


def add_prompts(record: Record, system_prompt: str | None, prompt_suffix: str | None) -> Record:
    """The record with a system turn, where it has none, and with `prompt_suffix` under its last human turn."""
    turns = list(record.conversations)
    if prompt_suffix is not None:
        asked = [i for i, turn in enumerate(turns) if ROLES[turn["from"]] == "user"]
        for i in asked[-1:]:
            turns[i] = {**turns[i], "value": f"{turns[i]['value']}\n{prompt_suffix}"}
    if system_prompt is not None and ROLES[turns[0]["from"]] != "system":
        turns.insert(0, {"from": "system", "value": system_prompt})
    return replace(record, conversations=turns)
