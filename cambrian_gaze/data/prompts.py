"""Prompt options of a source: a system prompt, and a suffix of the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cambrian_gaze.data.records import ROLES, Record


class PromptedRecords(Sequence[Record]):
    """Records with the prompt options of their source; a bad row stays the error that it is."""

    def __init__(self, records: Sequence[Record], system_prompt: str | None, prompt_suffix: str | None) -> None:
        self.records, self.system_prompt, self.prompt_suffix = records, system_prompt, prompt_suffix

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        found = self.records[index]
        return [self._prompted(record) for record in found] if isinstance(index, slice) else self._prompted(found)

    @property
    def file(self) -> str:
        """The file that the records are of."""
        return self.records.file

    def row_numbers(self) -> np.ndarray:
        """`Record.row` of every record, int64 [records]."""
        return self.records.row_numbers()

    def identity(self) -> dict[str, Any]:
        """What tells these records from others and from an older state of the file, for JSON."""
        return {**self.records.identity(), "prompts": [self.system_prompt, self.prompt_suffix]}

    def _prompted(self, record: Record) -> Record:
        return add_prompts(record, self.system_prompt, self.prompt_suffix)


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
