"""Did a head have the region that the next word is read from among those that it chose?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cambrian_gaze.data.records.records import Record
from cambrian_gaze.studies.routing.chosen import as_chosen, first_tokens, regions_of_record


def routing_recall(records: Sequence[Record], answers: Sequence[Mapping[str, Any]], tokenizer: Any) -> dict[str, Any]:
    """Over the answers that are right as they are, for the query that predicts a word read from one region: does a head
    have the region?

    Returns: `words`; the shares `mean_head` (of the heads), `best_head`, `any_head` (of the model) and `any_in_layer`
    [L]; `table` [L][H]; and `chance`, what heads would reach that chose as many regions at random and each by itself:
    for a `head` K/R, for a `layer` of H heads 1 − (1 − K/R)^H, for the `model` of L layers 1 − (1 − K/R)^(L·H).
    """
    import numpy as np

    hits, chances = [], []
    for record, answer in zip(records, answers, strict=True):
        regions = regions_of_record(record)
        for step, region in read_steps(record, answer, tokenizer):
            chosen = as_chosen({"regions": [answer["regions"][step]]}, regions)[0]
            hits.append(chosen[:, :, region])
            chances.append(chosen.sum(-1) / regions)
    if not hits:
        return {"words": 0}
    hit, chance = np.stack(hits), np.stack(chances)  # [words, L, H]
    table = hit.mean(0)
    return {
        "words": len(hit),
        "any_head": float(hit.any((1, 2)).mean()),
        "mean_head": float(table.mean()),
        "best_head": float(table.max()),
        "any_in_layer": hit.any(2).mean(0).tolist(),
        "table": table.tolist(),
        "chance": {
            "head": float(chance.mean()),
            "layer": (1 - (1 - chance).prod(2)).mean(0).tolist(),
            "model": float((1 - (1 - chance).prod((1, 2))).mean()),
        },
    }


def read_steps(record: Record, answer: Mapping[str, Any], tokenizer: Any) -> Iterator[tuple[int, int]]:
    """(place among the tokens, region) of each word that is read from one region; none where the answer is wrong."""
    truth = [(one["text"], one["regions"]) for one in record.extra["meta"]["answer_regions"]]
    if answer["answer"].split() == [text for text, _ in truth]:
        for step, (_, regions) in zip(first_tokens(answer["tokens"], tokenizer), truth, strict=True):
            if len(regions) == 1:
                yield step, regions[0]
