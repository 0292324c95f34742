"""Markdown of where the heads of a study looked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cambrian_gaze.studies.routing import counterfactual


def routing_parts(results: Mapping[str, Any]) -> list[str]:
    """The parts of a study's section, in order: empty where the study asks for none."""
    parts = []
    names = results.get("routing") or []
    for rows, text in ((_recall, RECALL), (_mass, MASS), (_shifts, SHIFTS), (_unions, UNIONS)):
        if table := _table(results, names, rows):
            parts.append(f"{text}\n\n{table}")
    if table := hidden_table(results):
        parts.append(f"{HIDDEN}\n\n{table}")
    return parts


RECALL = (
    "Recall by layer and head, over right answers: the share of words read from one region for which a head had that "
    "region. The heads of each layer of each seed's model stand in order of their recall. Chance is of heads that "
    "choose as many regions at random, each by itself."
)
SHIFTS = (
    "From one word of an answer to the next: the share of pairs at which the regions that a head chose differ, and how "
    "far (Jaccard distance, 1 where none is common). `random` is expected of sets drawn at random; what is chosen once "
    "stays at 0 by construction."
)
UNIONS = (
    "Regions chosen at one step by any of several heads, in brackets what heads that choose at random would choose. A "
    "KV head's keys and values are read once for its query heads; other KV heads and layers have theirs."
)
MASS = (
    "Dense attention mass inside the chosen regions: of what the same query would give to the visual tokens if it saw "
    "them all, mean over heads; in brackets what as many regions could hold at most. Then the fewest visual entries "
    "that hold half and 90 % of that mass, and of what the chosen regions hold of it."
)
HIDDEN = (
    "One region hidden for the whole answer: accuracy at the value that is read from it (the same value where another "
    "region is hidden, or none), and at those before and after. In `hop` what comes after a wrong turn is wrong too."
)


def _table(results: Mapping[str, Any], names: Sequence[str], rows: Any) -> str:
    titles = {arm["name"]: arm["title"] for arm in results["arms"]}
    head: list[str] = []
    lines: list[str] = []
    for name in names:
        found = [seed["arms"][name] for seed in results["seeds"].values()]
        for cells in rows(found):
            head = head or ["arm", *cells]
            lines.append(_line([titles[name], *cells.values()]))
    return "\n".join([_line(head), "|" + "---|" * len(head), *lines]) if lines else ""


def _recall(seeds: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    found = [seed["recall"] for seed in seeds if seed.get("recall", {}).get("words")]
    if not found:
        return
    weights = [one["words"] for one in found]
    tables = [[sorted(heads, reverse=True) for heads in one["table"]] for one in found]
    heads = range(len(tables[0][0]))
    chance = {name: _mean([one["chance"][name] for one in found], weights) for name in ("head", "model")}
    for layer in range(len(tables[0])):
        yield {
            "layer": str(layer),
            **{_rank(n): f"{_mean([table[layer][n] for table in tables], weights):.3f}" for n in heads},
            "any of them": f"{_mean([one['any_in_layer'][layer] for one in found], weights):.3f}",
            "chance for any": f"{_mean([one['chance']['layer'][layer] for one in found], weights):.3f}",
        }
    mean = _mean([one["mean_head"] for one in found], weights)
    yield {
        "layer": "all",
        **{_rank(n): f"mean {mean:.3f}, chance {chance['head']:.3f}" if n == 0 else "" for n in heads},
        "any of them": f"{_mean([one['any_head'] for one in found], weights):.3f}",
        "chance for any": f"{chance['model']:.3f}",
    }


def _rank(place: int) -> str:
    return "best head" if place == 0 else f"{place + 1}."


def _mass(seeds: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    found = [seed["mass"] for seed in seeds if seed.get("mass", {}).get("all", {}).get("steps")]
    if not found:
        return

    def mean(which: str, name: str, layers: Sequence[int]) -> float:
        some = [one[which] for one in found if one[which]["steps"]]
        shares = [sum(one[name][layer] for layer in layers) / len(layers) for one in some]
        return _mean(shares, [one["steps"] for one in some]) if some else float("nan")

    every = range(len(found[0]["all"]["inside"]))
    for name, layers in [*((str(layer), [layer]) for layer in every), ("all", list(every))]:
        yield {
            "layer": name,
            "inside, any token": f"{mean('all', 'inside', layers):.3f} ({mean('all', 'best', layers):.3f})",
            "inside, words read": f"{mean('read', 'inside', layers):.3f} ({mean('read', 'best', layers):.3f})",
            "half": f"{mean('all', 'half', layers):.1f}",
            "90 %": f"{mean('all', 'most', layers):.1f}",
            "half of the chosen": f"{mean('all', 'half_seen', layers):.1f}",
            "90 % of the chosen": f"{mean('all', 'most_seen', layers):.1f}",
        }


def _shifts(seeds: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    found = [seed["shifts"] for seed in seeds if seed.get("shifts", {}).get("pairs")]
    if not found:
        return
    weights = [one["pairs"] for one in found]
    changed, distance = ([one[name] for one in found] for name in ("changed", "distance"))  # [seeds][L][H]

    def row(layer: str, places: Sequence[int]) -> dict[str, str]:
        shares = [[share for place in places for share in table[place]] for table in changed]
        far = [[share for place in places for share in table[place]] for table in distance]
        return {
            "layer": layer,
            "differ": f"{_mean([sum(one) / len(one) for one in shares], weights):.3f}",
            "of the stillest head": f"{_mean([min(one) for one in shares], weights):.3f}",
            "of the liveliest head": f"{_mean([max(one) for one in shares], weights):.3f}",
            "distance": f"{_mean([sum(one) / len(one) for one in far], weights):.3f}",
        }

    layers = list(range(len(changed[0])))
    yield from (row(str(layer), [layer]) for layer in layers)
    yield row("all", layers)
    expected = {name: _mean([one["random"][name] for one in found], weights) for name in ("changed", "distance")}
    yield {
        "layer": "random", "differ": f"{expected['changed']:.3f}", "of the stillest head": "",
        "of the liveliest head": "", "distance": f"{expected['distance']:.3f}",
    }  # fmt: skip


def _unions(seeds: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    found = [seed["unions"] for seed in seeds if seed.get("unions", {}).get("steps")]
    if not found:
        return
    weights = [one["steps"] for one in found]

    def mean(*path: Any) -> float:
        return _mean([_at(one, path) for one in found], weights)

    of, entries = mean("regions"), mean("entries")
    for layer in range(len(found[0]["layer"])):
        yield {
            "layer": str(layer),
            f"a head, of {of:.4g}": f"{mean('head'):.4g}",
            "query heads of a KV head": f"{mean('kv_head', layer):.2f} ({mean('random', 'kv_head'):.2f})",
            "its entries": f"{entries * mean('kv_head', layer):.1f} of {entries * of:.4g}",
            "heads of the layer": f"{mean('layer', layer):.2f} ({mean('random', 'layer'):.2f})",
            "all heads": "",
        }
    layers = range(len(found[0]["layer"]))
    kv_head, layer = (sum(mean(name, number) for number in layers) / len(layers) for name in ("kv_head", "layer"))
    yield {
        "layer": "all",
        "head": f"{mean('head'):.4g}",
        "kv": f"{kv_head:.2f} ({mean('random', 'kv_head'):.2f})",
        "entries": f"{entries * kv_head:.1f} of {entries * of:.4g}",
        "heads": f"{layer:.2f} ({mean('random', 'layer'):.2f})",
        "all heads": f"{mean('model'):.2f} ({mean('random', 'model'):.2f})",
    }


def hidden_table(results: Mapping[str, Any]) -> str:
    """Counterfactuals: empty where no arm hides the region of a single value."""
    titles = {arm["name"]: arm["title"] for arm in results["arms"]}
    head = ["family", "arm", *counterfactual.SPANS]
    lines = []
    for family, plain, arms in counterfactual.steered_arms(results):
        for arm in [plain, *arms]:
            like = arms[0] if arm == plain else arm
            cells = []
            for span in counterfactual.SPANS.values():
                found = counterfactual.around(results, arm, like, family, span)
                cells.append("–" if found is None else f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]")
            lines.append(_line([family, titles[arm], *cells]))
    return "\n".join([_line(head), "|" + "---|" * len(head), *lines]) if lines else ""


def _at(values: Any, path: Sequence[Any]) -> float:
    for step in path:
        values = values[step]
    return values


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
