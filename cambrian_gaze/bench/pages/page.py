"""The benchmarks' pages, made of the results beside them: `docs/benchmarks.md` with findings and pictures, and in the
folder of its name a page of tables per bench and the pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cambrian_gaze import measure
from cambrian_gaze.bench import registry, results
from cambrian_gaze.bench.decode import SIZES
from cambrian_gaze.bench.pages.findings import find
from cambrian_gaze.bench.pages.picture import Picture
from cambrian_gaze.bench.pages.pictures import draw
from cambrian_gaze.bench.pages.texts import TEXTS, Text
from cambrian_gaze.bench.results import Run
from cambrian_gaze.files import write_text
from cambrian_gaze.machine import machine_line
from cambrian_gaze.viz.charts.drawing import available
from cambrian_gaze.viz.html import element

PAGE = "docs/benchmarks.md"
"""Where the project's own page is."""

DEVICES = {"cpu": "On a CPU", "cuda": "On a GPU"}
OPENING, CLOSING = "<!-- measured -->", "<!-- /measured -->"
UNDRAWN = 'Pictures are missing: `pip install "cambrian-gaze[charts]"`, then `cambrian-gaze bench page` draws them.'
HINT = "<!-- Made by `cambrian-gaze bench page` of the JSON files here; words: cambrian_gaze/bench/pages/texts.py -->"

Results = dict[str, dict[str, list[Run]]]
"""Bench → device → runs, in the order of the pages."""


def record(page: str | Path, bench: str, runs: Sequence[Run]) -> None:
    """Put runs in the place of those of their sections and devices, and make the pages anew. Runs that tell nothing
    change nothing."""
    check(page)
    for device in dict.fromkeys(run.device for run in runs):
        new = [run for run in runs if run.device == device and run.told]
        path = _folder(page) / f"{bench}-{device}.json"
        if new:
            old = results.read(path)[1] if path.exists() else []
            results.write(path, bench, results.merged(old, new))
    refresh(page)


def refresh(page: str | Path) -> list[Path]:
    """Make the pages and pictures of the results beside them; returns the files that changed."""
    changed = []
    for path, text in render(page).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            changed.append(write_text(path, text))
    return changed


def check(page: str | Path) -> tuple[str, str]:
    """What stands before and after the findings. Raises ValueError where the page has no place for them."""
    try:
        text = Path(page).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{page}: {error.strerror}") from error
    before, opening, rest = text.partition(OPENING)
    _, closing, after = rest.partition(CLOSING)
    if not (opening and closing) or text.count(OPENING) + text.count(CLOSING) != 2:
        raise ValueError(f"{page} must hold {OPENING} and then {CLOSING}, once each")
    return before, after


def render(page: str | Path) -> dict[Path, str]:
    """Every file that is made of the results beside a page, with its text."""
    page, folder = Path(page), _folder(page)
    before, after = check(page)
    found = _results(folder)
    pictures = {
        (bench, device): draw(bench, runs) for bench, devices in found.items() for device, runs in devices.items()
    }
    files = {page: f"{before}{OPENING}\n\n{_front(found, pictures, folder.name)}\n\n{CLOSING}{after}"}
    for bench, devices in found.items():
        files[folder / f"{bench}.md"] = _tables(bench, devices, pictures)
    for (_, device), drawn in pictures.items():
        files.update({folder / f"{one.name}-{device}.svg": one.svg for one in drawn})
    return files


def _folder(page: str | Path) -> Path:
    return Path(page).with_suffix("")


def _results(folder: Path) -> Results:
    found: Results = {}
    for bench in TEXTS:
        for device in DEVICES:
            path = folder / f"{bench}-{device}.json"
            if path.exists():
                found.setdefault(bench, {})[device] = results.read(path)[1]
    return found


def _front(found: Results, pictures: Mapping[tuple[str, str], Sequence[Picture]], folder: str) -> str:
    """Findings and pictures per device, then what was not measured."""
    parts = [] if available() else [UNDRAWN]
    for device, heading in DEVICES.items():
        here = {bench: devices[device] for bench, devices in found.items() if device in devices}
        if not here:
            continue
        parts += [f"## {heading}", _machines(here)]
        bullets = []
        for bench, runs in here.items():
            notes = dict.fromkeys(run.note for run in runs if run.note)
            said = " ".join(text[0].upper() + text[1:] for text in (*find(bench, runs), *notes))
            bullets.append(f"- **[{TEXTS[bench].title}]({folder}/{bench}.md).** {said}".rstrip())
        parts.append("\n".join(bullets))
        shown = [(bench, one) for bench in here for one in pictures[bench, device] if one.place is not None]
        shown.sort(key=lambda pair: pair[1].place)
        parts.append("\n".join(_image(one, device, f"{folder}/", f"{folder}/{bench}.md") for bench, one in shown))
    if missing := list(_missing(found)):
        parts += ["## Not measured", "\n".join(f"- {line}" for line in missing)]
    return "\n\n".join(filter(None, parts))


def _machines(here: Mapping[str, Sequence[Run]]) -> str:
    """Hardware, torch and day, each with the benches that ran there; the pages of tables name all versions."""
    where: dict[str, list[str]] = {}
    for bench, runs in here.items():
        for run in runs:
            short = {name: run.machine[name] for name in ("gpu", "cpu", "torch") if name in run.machine}
            where.setdefault(f"{machine_line(short)}; {run.date}", []).append(TEXTS[bench].title)
    lines = (f"{', '.join(dict.fromkeys(titles))}: {machine}." for machine, titles in where.items())
    return " ".join(lines)


def _missing(found: Results) -> Iterator[str]:
    """What a GPU would fill, and what there was no time for."""
    for bench, text in TEXTS.items():
        devices = found.get(bench, {})
        if text.on_gpu and "cuda" not in devices:
            yield f"`cambrian-gaze bench {bench}` on a GPU: {text.on_gpu}."
        for device, runs in devices.items():
            reasons: dict[str, dict[str, None]] = {}
            for row in (row for run in runs for row in run.open):
                if device == "cuda" or row.get("note") == measure.NO_TIME_LEFT:
                    reasons.setdefault(str(row.get("note")), {})[f"`{row['arm']}`"] = None
            for reason, arms in reasons.items():
                where = DEVICES[device].replace("On", "on")
                yield f"`cambrian-gaze bench {bench}` {where}, some rows of {', '.join(arms)}: {reason}."


def _tables(
    bench: str, devices: Mapping[str, Sequence[Run]], pictures: Mapping[tuple[str, str], Sequence[Picture]]
) -> str:
    """The page of one bench."""
    text, columns = TEXTS[bench], registry.load(bench).COLUMNS
    parts = [HINT, f"# {text.title}", f"[All benchmarks](../benchmarks.md). {text.intro}"]
    for device, runs in devices.items():
        parts += [f"## {DEVICES[device]}", f"As rows: [{bench}-{device}.json]({bench}-{device}.json)."]
        parts.append("\n".join(_image(one, device) for one in pictures[bench, device]))
        for run in sorted(runs, key=lambda run: _order(text, run)):
            heading, told = text.sections.get(run.section, (run.section.capitalize(), ""))
            parts += [f"### {heading}", told, f"```bash\n{run.command} --page {PAGE}\n```"]
            said = f"{machine_line(run.machine)}; {run.date}.", _sizes(run), run.note
            parts.append(" ".join(filter(None, said)))
            filled = {key: name for key, name in columns.items() if any(row.get(key) is not None for row in run.told)}
            parts.append(measure.markdown_table(run.told, filled))
    return "\n\n".join(filter(None, parts)) + "\n"


def _sizes(run: Run) -> str | None:
    """Of the layer whose steps were taken, where all rows name the same."""
    found = {tuple(row.get(name) for name in SIZES) for row in run.sized}
    if len(found) != 1 or None in (sizes := found.pop()):
        return None
    return "{} query heads on {} KV heads of {}, {} text tokens; for gaze {} context tokens per 576.".format(*sizes)


def _order(text: Text, run: Run) -> int:
    names = list(text.sections)
    return names.index(run.section) if run.section in names else len(names)


def _image(one: Picture, device: str, folder: str = "", link: str | None = None) -> str:
    """A picture as wide as half the page."""
    image = element("img", src=f"{folder}{one.name}-{device}.svg", alt=one.alt, width="49%", align="top")
    return image if link is None else element("a", image, href=link)
