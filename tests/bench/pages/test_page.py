"""The benchmarks' pages: the committed ones are what the committed results give; wins and losses are said."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cambrian_gaze import measure
from cambrian_gaze.bench import results
from cambrian_gaze.bench.pages import page as pages
from cambrian_gaze.bench.pages.texts import TEXTS
from cambrian_gaze.bench.results import Run

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / pages.PAGE
RENDERED = pages.render(PAGE)
PICTURES = [path for path in RENDERED if path.suffix == ".svg"]
EMPTY = f"# Numbers\n\nBefore.\n\n{pages.OPENING}\nold\n{pages.CLOSING}\n\nAfter.\n"


def same(path: Path, text: str) -> bool:
    """Letter by letter; a picture may be off by two pixels, since releases of matplotlib differ by one."""
    old = path.read_text("utf-8")
    if path.suffix != ".svg":
        return old == text
    (words, numbers), (old_words, old_numbers) = map(parted, (text, old))
    return words == old_words and all(abs(a - b) <= 2 for a, b in zip(numbers, old_numbers, strict=True))


def parted(picture: str) -> tuple[list[str], list[float]]:
    """A picture without the numbers of its tags, and these; names inside it follow from them."""
    picture = re.sub(r"c[0-9a-f]{8}-", "", picture)
    number = r"-?\d+\.?\d*(?=[^<>]*>)"
    return re.split(number, picture), [float(found) for found in re.findall(number, picture)]


def test_the_committed_pages_are_what_the_committed_results_give() -> None:
    stale = [path.name for path, text in RENDERED.items() if not path.exists() or not same(path, text)]
    assert not stale, "run `cambrian-gaze bench page`"
    made = {path.name for path in RENDERED} | {path.name for path in PAGE.with_suffix("").glob("*.json")}
    assert {path.name for path in PAGE.with_suffix("").iterdir()} <= made, "nobody makes these files"


def test_the_first_page_shows_each_kind_of_finding() -> None:
    text = RENDERED[PAGE]
    shown = re.findall(r'src="benchmarks/([\w-]+)-cpu\.svg"', text)
    wanted = {"decode-time-bf16", "decode-over-k-bf16", "decode-ratios", "prefill-time", "prefill-memory"}
    assert wanted | {"attention-ratios", "data-padding", "data-index"} == set(shown)
    assert all((PAGE.parent / target).exists() for target in re.findall(r'(?:src|href)="([^"]+)"', text))
    assert text.count("Not measured") == 1 and len(text.splitlines()) < 60
    assert not any("not measured" in other.lower() for path, other in RENDERED.items() if path != PAGE)


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_nothing_that_is_written_in_a_picture_covers_anything_else(picture: Path) -> None:
    root = ElementTree.fromstring(RENDERED[picture])
    width, height = float(root.get("width")), float(root.get("height"))
    boxes = []

    def collect(node: ElementTree.Element, dx: float, dy: float) -> None:
        shift = re.fullmatch(r"translate\((\d+),(\d+)\)", node.get("transform") or "translate(0,0)")
        dx, dy = dx + int(shift[1]), dy + int(shift[2])
        if node.tag.endswith("}text"):
            words = node.text or ""
            style = dict(part.strip().split(": ") for part in node.get("style", "").split(";") if part)
            wide = len(words) * (8.4 if node.get("class") == "title" else 7.1 if "font-weight" in style else 6.5)
            left = float(node.get("x")) + dx - {"end": wide, "middle": wide / 2}.get(style.get("text-anchor"), 0)
            base = float(node.get("y")) + dy
            boxes.append((left, left + wide, base - 10, base + 3, words))
        for child in node:
            collect(child, dx, dy)

    collect(root, 0, 0)
    assert len(boxes) > 5
    for at, (left, right, top, bottom, words) in enumerate(boxes):
        assert left >= 0 and right <= width and top >= 0 and bottom <= height, f"{words!r} leaves the picture"
        for l2, r2, t2, b2, other in boxes[:at]:
            assert min(right, r2) <= max(left, l2) or min(bottom, b2) <= max(top, t2), f"{words!r} over {other!r}"


def small(folder: Path) -> Path:
    page = folder / "benchmarks.md"
    page.write_text(EMPTY)
    return page


def decode_run(device: str, us: float, **more) -> Run:
    rows = [
        measure.row(arm=arm, visual_tokens=n, kept=kept, granularity=granularity, dtype="bf16", device=device,
                    median_us=time * n, batch=1, layers=1, regions=n // 36, **more)
        for n in (576, 1152)
        for arm, kept, granularity, time in (("dense", 1.0, None, 1.0), ("decode", 0.125, "kv_group", us))
    ]  # fmt: skip
    measure.add_ratios(rows, ("visual_tokens", "device"))
    return Run("bench decode", device, "cambrian-gaze bench decode", "2026-01-02", {"cpu": "C", "torch": "2"}, rows)


def test_recording_makes_results_tables_pictures_and_findings(tmp_path: Path) -> None:
    page = small(tmp_path)
    pages.record(page, "decode", [decode_run("cpu", 0.5)])
    text = page.read_text()
    assert text.startswith("# Numbers\n\nBefore.\n") and text.endswith("After.\n") and "old" not in text
    assert "over 576 to 1,152 visual tokens: 2× as fast as dense" in text and "On a GPU" not in text
    assert "`cambrian-gaze bench decode` on a GPU" in text.partition("Not measured")[2]
    names = {"decode.md", "decode-cpu.json", "decode-time-bf16-cpu.svg", "decode-ratios-cpu.svg"}
    assert {path.name for path in (tmp_path / "benchmarks").iterdir()} == names
    tables = (tmp_path / "benchmarks" / "decode.md").read_text()
    assert "cambrian-gaze bench decode --page docs/benchmarks.md" in tables and "| 2.00× |" in tables
    assert "C; torch 2; 2026-01-02." in tables and "max error" not in tables, "no column without a value"
    assert pages.refresh(page) == []


def test_without_matplotlib_pages_have_tables_and_findings_and_name_the_remedy(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = small(tmp_path)
    pages.record(page, "decode", [decode_run("cpu", 0.5)])
    assert {path.name for path in (tmp_path / "benchmarks").iterdir()} == {"decode.md", "decode-cpu.json"}
    text = page.read_text()
    assert 'pip install "cambrian-gaze[charts]"' in text and "2× as fast as dense" in text and "<img" not in text
    monkeypatch.undo()
    pages.refresh(page)
    assert "pip install" not in page.read_text() and "<img" in page.read_text()


def test_a_loss_is_said_as_one_and_a_gpu_fills_its_place(tmp_path: Path) -> None:
    page = small(tmp_path)
    pages.record(page, "decode", [decode_run("cpu", 2.0)])
    pages.record(page, "decode", [decode_run("cuda", 0.25)])
    cpu, _, gpu = page.read_text().partition("## On a GPU")
    assert "**slower than dense**, 0.5× of its speed" in cpu and "4× as fast as dense" in gpu
    assert "`cambrian-gaze bench decode` on a GPU" not in gpu and "decode-time-bf16-cuda.svg" in gpu


def test_rows_without_a_measurement_stand_in_no_table_but_are_named_once(tmp_path: Path) -> None:
    page, run = small(tmp_path), decode_run("cuda", 0.5)
    rows = [*run.rows, measure.row(arm="triton", device="cuda", note="no time left", visual_tokens=9)]
    pages.record(page, "decode", [replace(run, rows=rows)])
    assert "triton" not in (tmp_path / "benchmarks" / "decode.md").read_text()
    assert "some rows of `triton`: no time left." in page.read_text().partition("Not measured")[2]
    assert "on a CPU, some" not in page.read_text()


def test_backends_that_auto_drops_stand_in_its_table(tmp_path: Path) -> None:
    page = small(tmp_path)
    same = {"device": "cuda", "visual_tokens": 576, "text_tokens": 64, "mode": "forward"}
    rows = [
        measure.row(arm="masked", median_us=9.0, note="taken", **same),
        measure.row(arm="flex", max_error=0.5, note="differs from masked by 5.0e-01 of a row", **same),
        measure.row(arm="triton", note="NotImplementedError: no such kernel", **same),
    ]
    pages.record(page, "attention", [Run("bench attention choice", "cuda", "x", "2026-01-02", {"cpu": "C"}, rows)])
    table = (tmp_path / "benchmarks" / "attention.md").read_text()
    assert "differs from masked" in table and "no such kernel" in table and "some rows" not in page.read_text()


def test_each_table_of_decoding_says_its_sizes(tmp_path: Path) -> None:
    page = small(tmp_path)
    sizes = {"heads": 4, "kv_heads": 2, "head_dim": 16, "text_tokens": 5, "context_tokens": 3}
    pages.record(page, "decode", [decode_run("cpu", 0.5), decode_run("cuda", 0.5, **sizes)])
    cpu, _, gpu = (tmp_path / "benchmarks" / "decode.md").read_text().partition("## On a GPU")
    assert "32 query heads on 8 KV heads of 128, 64 text tokens; for gaze 4 context" in cpu
    assert "4 query heads on 2 KV heads of 16, 5 text tokens; for gaze 3 context" in gpu and "32 query" not in gpu


def test_what_measured_nothing_changes_nothing(tmp_path: Path) -> None:
    page = small(tmp_path)
    pages.record(page, "decode", [decode_run("cuda", 0.5)])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    empty = replace(decode_run("cuda", 1), rows=[measure.row(arm="dense", device="cuda", note="no GPU here")])
    pages.record(page, "decode", [empty])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_another_digit_in_the_results_is_another_page(tmp_path: Path) -> None:
    """So that the comparison of committed files would see a number that was typed."""
    shutil.copytree(PAGE.with_suffix(""), tmp_path / "benchmarks")
    shutil.copy(PAGE, tmp_path)
    for path in pages.refresh(tmp_path / "benchmarks.md"):  # only by another matplotlib than that of the files
        assert same(PAGE.with_suffix("") / path.name, path.read_text("utf-8"))
    file = tmp_path / "benchmarks" / "data-cpu.json"
    content = json.loads(file.read_text())
    (packed,) = (row for row in content["runs"][0]["rows"] if row["arm"] == "pack samples")
    packed["packed_share"] = 0.1234
    file.write_text(json.dumps(content))
    changed = {path.name for path in pages.refresh(tmp_path / "benchmarks.md")}
    assert changed == {"benchmarks.md", "data-padding-cpu.svg"}
    assert "Packing leaves 12.34% of padding" in (tmp_path / "benchmarks.md").read_text()


@pytest.mark.parametrize("text", ["", pages.OPENING, pages.CLOSING + pages.OPENING, EMPTY + EMPTY])
def test_a_page_without_a_place_for_findings_is_left_alone(tmp_path: Path, text: str) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="must hold <!-- measured --> and then"):
        pages.record(page, "decode", [decode_run("cpu", 1)])
    assert page.read_text() == text and len(list(tmp_path.iterdir())) == 1


def test_every_section_has_its_words() -> None:
    for path in PAGE.with_suffix("").glob("*.json"):
        bench, runs = results.read(path)
        assert {run.section for run in runs} <= set(TEXTS[bench].sections)
