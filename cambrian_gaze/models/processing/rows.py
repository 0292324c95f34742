"""Rows of tokens brought to a length: cut where they are too long, padded where they are short."""

from __future__ import annotations

from typing import Any

from cambrian_gaze.models.processing.options import ProcessorOptions


def cut_row(row: dict[str, list[int]], number: int, tokenizer: Any, options: ProcessorOptions) -> dict[str, list[int]]:
    """The row under `truncation`; it holds `input_ids`, `mm_token_type_ids` and other lists of that length.

    Raises: ValueError where visual or context tokens would be cut off.
    """
    length = len(row["input_ids"])
    limit = options.max_length or tokenizer.model_max_length
    if not options.cuts or length <= limit:
        return row
    right = getattr(tokenizer, "truncation_side", "right") == "right"
    kept = slice(0, limit) if right else slice(length - limit, length)
    gone = slice(limit, length) if right else slice(0, length - limit)
    if any(row["mm_token_type_ids"][gone]):
        visual = sum(map(bool, row["mm_token_type_ids"]))
        raise ValueError(
            f"row {number} has {length} tokens, {visual} of them of pictures, and cutting it to {limit} would cut off "
            "some of these: raise max_length, or leave truncation out"
        )
    return {name: values[kept] for name, values in row.items()}


def pad_rows(columns: dict[str, list[list[int]]], tokenizer: Any, options: ProcessorOptions) -> None:
    """Bring the rows of each column to one length, in place.

    Raises: ValueError where they differ in length, are to be tensors, and padding is off.
    """
    lengths = [len(ids) for ids in columns["input_ids"]]
    if not options.pads:
        if options.return_tensors is not None and len(set(lengths)) > 1:
            raise ValueError("the rows differ in length; pass padding=True, or return_tensors=None for lists")
        return
    longest = max(lengths)
    if options.padding == "max_length":
        longest = max(longest, options.max_length or tokenizer.model_max_length)
    multiple = options.pad_to_multiple_of or 1
    longest = -(-longest // multiple) * multiple
    left = (options.padding_side or tokenizer.padding_side) == "left"
    for name, rows in columns.items():
        fill = tokenizer.pad_token_id if name == "input_ids" else 0
        for number, values in enumerate(rows):
            gap = [fill] * (longest - len(values))
            rows[number] = gap + values if left else values + gap
