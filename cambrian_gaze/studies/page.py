"""`docs/proof.md`, of the raw results in the folder of its name: tables, figures, how they were made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cambrian_gaze.files import write_text
from cambrian_gaze.studies import statistics
from cambrian_gaze.studies.figures import figures
from cambrian_gaze.studies.results import read_results
from cambrian_gaze.studies.routing.tables import routing_parts

OPENING, CLOSING = "<!-- measured -->", "<!-- /measured -->"


def draw_page(page: str | Path) -> list[Path]:
    """Make figures and tables of the results beside a page; returns the files that changed.

    Raises: ValueError where the page has no place for them.
    """
    page = Path(page)
    text = page.read_text(encoding="utf-8")
    before, opening, rest = text.partition(OPENING)
    _, closing, after = rest.partition(CLOSING)
    if not (opening and closing):
        raise ValueError(f"{page} must hold {OPENING} and then {CLOSING}")
    folder = page.with_suffix("")
    files: dict[Path, str] = {}
    sections = []
    for path in sorted(folder.glob("*.json"), key=lambda path: (not path.stem.startswith("main"), path.stem)):
        results = read_results(path)
        if results["seeds"]:
            drawn = list(figures(results))
            files.update({folder / f"{one.name}.svg": one.svg for one in drawn})
            sections.append(_section(results, folder.name, [(one.name, one.alt) for one in drawn]))
    files[page] = f"{before}{OPENING}\n\n" + "\n\n".join(sections) + f"\n\n{CLOSING}{after}"
    return [
        write_text(path, content)
        for path, content in files.items()
        if not path.exists() or path.read_text(encoding="utf-8") != content
    ]


def table(results: Mapping[str, Any]) -> str:
    """Markdown: per family a line for each arm, with accuracy and how much less it is than that of the arm that all are
    compared with."""
    return "\n\n".join(_family_table(results, family) for family in statistics.families(results))


def _family_table(results: Mapping[str, Any], family: str) -> str:
    against = results["against"]
    title = next(arm["title"] for arm in results["arms"] if arm["name"] == against)
    several = statistics.values_per_answer(results, family) > 1
    head = [f"`{family}`", "visible", "in memory", "accuracy", "beyond the first value", f"less than {_cell(title)} by"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for arm in results["arms"]:
        name = arm["name"]
        later = statistics.estimate(results, name, family, slice(1, None)) if several else None
        cells = [
            _cell(arm["title"]),
            _seen(results, name),
            f"{statistics.seen(results, name, 'retained'):.4g}",
            _estimate(statistics.estimate(results, name, family)),
            "–" if later is None else f"{later.value:.3f}",
            "–" if name == against else _behind(statistics.difference(results, against, name, family)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def seeds_table(results: Mapping[str, Any]) -> str:
    """Markdown: accuracy by seed."""
    seeds = list(results["seeds"])
    lines = [f"| arm | family | {' | '.join(f'seed {seed}' for seed in seeds)} |", "|---|---|" + "---|" * len(seeds)]
    for arm in results["arms"]:
        for family in statistics.families(results):
            values = statistics.estimate(results, arm["name"], family).by_seed
            lines.append(
                f"| {_cell(arm['title'])} | {family} | " + " | ".join(f"{value:.3f}" for value in values) + " |"
            )
    return "\n".join(lines)


def recall_table(results: Mapping[str, Any]) -> str:
    """Markdown: how often the heads have the region that the next word is read from; empty where nothing routed."""
    lines = ["| arm | words | mean over heads | best head | any head |", "|---|---|---|---|---|"]
    for arm in results["arms"]:
        if arm.get("steer"):
            continue  # The answers that stay right in spite of it are no fair choice.
        found = [seed["arms"][arm["name"]].get("recall", {}) for seed in results["seeds"].values()]
        found = [one for one in found if one.get("words")]
        if found:
            words = sum(one["words"] for one in found)
            shares = [
                sum(one[name] * one["words"] for one in found) / words
                for name in ("mean_head", "best_head", "any_head")
            ]
            lines.append(
                f"| {_cell(arm['title'])} | {words:,} | " + " | ".join(f"{share:.3f}" for share in shares) + " |"
            )
    return "\n".join(lines) if len(lines) > 2 else ""


def _section(results: Mapping[str, Any], folder: str, drawn: list[tuple[str, str]]) -> str:
    seeds = results["seeds"]
    trained = {
        name: sum(seed["models"][name]["seconds"] for seed in seeds.values()) / len(seeds) for name in results["models"]
    }
    took = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in trained.items())
    first = next(iter(next(iter(seeds.values()))["arms"].values()))["right"]
    asked = ", ".join(f"{len(texts)} {family}" for family, texts in first.items())
    seed_word = "seed" if len(seeds) == 1 else "seeds"
    parts = [
        f"### {results['title']}",
        results["asks"] + (f" {results['note']}" if results["note"] else ""),
        f"```bash\n{results['command']}\n```",
        f"{len(seeds)} {seed_word}; questions of each: {asked}. {_machines(seeds)} Minutes of training on a machine "
        f"that others used too: {took}. Raw: [{results['study']}-{results['size']}.json]"
        f"({folder}/{results['study']}-{results['size']}.json).",
        table(results),
        "\n".join(f"![{alt}]({folder}/{name}.svg)" for name, alt in drawn),
    ]
    if recall := recall_table(results):
        parts.append(
            "Regions that heads chose for the query that predicts a word read from one region, over right answers:\n\n"
            + recall
        )
    parts += routing_parts(results)
    if len(seeds) > 1:
        parts.append(f"<details><summary>Accuracy by seed</summary>\n\n{seeds_table(results)}\n\n</details>")
    return "\n\n".join(parts)


def _machines(seeds: Mapping[str, Any]) -> str:
    """On what the seeds were measured, with versions; which seeds on which where machines differ."""
    by_machine: dict[str, list[str]] = {}
    for seed, values in seeds.items():
        hardware = values["hardware"]
        machine = hardware["gpu"] or f"{hardware['cpu']}, {hardware['threads']} thread"
        versions = ", ".join(f"{name} {version}" for name, version in values["versions"].items())
        by_machine.setdefault(f"on {machine}; {versions}.", []).append(seed)
    if len(by_machine) == 1:
        (only,) = by_machine
        return only[:1].upper() + only[1:]
    return " ".join(
        f"Seed{'s' if len(own) > 1 else ''} {', '.join(own)} {machine}" for machine, own in by_machine.items()
    )


def _cell(text: str) -> str:
    """Text inside a table."""
    return text.replace("|", "\\|")


def _seen(results: Mapping[str, Any], arm: str) -> str:
    visible, context, of = (statistics.seen(results, arm, name) for name in ("visible", "context", "of"))
    return f"{visible:.4g}" + (f" + {context:.4g}" if context else "") + f" of {of:.4g}"


def _estimate(one: statistics.Estimate) -> str:
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _behind(one: statistics.Difference) -> str:
    p = "p < 0.001" if one.p < 0.001 else f"p = {one.p:.3f}"
    return f"{one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}], {p}"
