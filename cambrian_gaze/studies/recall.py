"""Did a head have the region that the next word is read from among those that it chose?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cambrian_gaze.data.records.records import Record


def routing_recall(records: Sequence[Record], answers: Sequence[Mapping[str, Any]], tokenizer: Any) -> dict[str, Any]:
    """Over the answers that are right as they are: for the query that predicts a word read from one region, the share
    of heads that have the region (`mean_head`), whether any has it (`any_head`), and the share by layer and head.

    Words of several tokens are judged by their first.
    """
    table: list[list[int]] = []
    any_head = words = 0
    for record, answer in zip(records, answers, strict=True):
        meta = record.extra["meta"]
        truth = [(one["text"], one["regions"]) for one in meta["answer_regions"]]
        if answer["answer"].split() != [text for text, _ in truth]:
            continue
        for step, (_, regions) in zip(_first_tokens(answer["tokens"], tokenizer), truth, strict=True):
            if len(regions) != 1:
                continue
            chosen = answer["regions"][step]
            hits = [[int(regions[0] in head) for head in layer] for layer in chosen]
            table = hits if not table else [
                [a + b for a, b in zip(*rows, strict=True)] for rows in zip(table, hits, strict=True)
            ]  # fmt: skip
            any_head += any(map(any, hits))
            words += 1
    if not words:
        return {"words": 0}
    shares = [[hits / words for hits in layer] for layer in table]
    heads = [share for layer in shares for share in layer]
    return {
        "words": words,
        "any_head": any_head / words,
        "mean_head": sum(heads) / len(heads),
        "best_head": max(heads),
        "table": shares,
    }


def _first_tokens(tokens: Sequence[int], tokenizer: Any) -> list[int]:
    """Place of the first token of each word of an answer."""
    places, words = [], 0
    for place in range(len(tokens)):
        count = len(tokenizer.decode(tokens[: place + 1], skip_special_tokens=True).split())
        if count > words:
            places.append(place)
            words = count
    return places
