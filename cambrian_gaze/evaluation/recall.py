"""Routing recall: does a head look at the region that it should, at the step where it matters?

Per layer and head, over (generated token, wanted region) pairs: the share where the wanted region is among the K that
the query chose. A head that chooses at random has K/R.
"""

from __future__ import annotations

from collections.abc import Sequence


class RoutingRecall:
    """Counts hits per layer and head."""

    def __init__(self) -> None:
        self.hits: list[list[int]] = []
        self.pairs = 0

    def add(self, chosen: Sequence[Sequence[Sequence[int]]], wanted: int) -> None:
        """Count one pair: `chosen` is [layers][heads][K] of the query, `wanted` the region it should look at."""
        if not self.hits:
            self.hits = [[0] * len(layer) for layer in chosen]
        for layer, heads in enumerate(chosen):
            for head, regions in enumerate(heads):
                self.hits[layer][head] += wanted in regions
        self.pairs += 1

    @property
    def table(self) -> list[list[float]]:
        """Recall [layers][heads]. Raises ValueError where nothing was counted."""
        if self.pairs == 0:
            raise ValueError("no pairs were counted, so there is no recall")
        return [[hits / self.pairs for hits in layer] for layer in self.hits]

    @property
    def best(self) -> tuple[int, int, float]:
        """(layer, head, recall) of the head with the highest recall; the first one on a tie."""
        table = self.table
        layer, head = max(
            ((layer, head) for layer in range(len(table)) for head in range(len(table[layer]))),
            key=lambda place: table[place[0]][place[1]],
        )
        return layer, head, table[layer][head]
