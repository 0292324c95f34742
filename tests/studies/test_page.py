"""The page is a function of the raw results."""

import json
import re
import xml.etree.ElementTree as ET

import pytest

from cambrian_gaze.studies.page import draw_page

RIGHT = {"dense": ["11", "11", "10"], "gaze": ["11", "10", "10"]}


def write_results(folder, more=None):
    folder.mkdir(exist_ok=True)
    arms = {
        name: {
            "right": {"hop": " ".join(texts)},
            "visible": 64.0, "context": 0.0, "retained": 64.0, "of": 64.0, "seconds": 1.0,
            "recall": {"words": 10, "mean_head": 0.25, "best_head": 0.5, "any_head": 0.75, "table": [[0.25]]},
        }
        for name, texts in RIGHT.items()
    }  # fmt: skip
    seed = {
        "hardware": {"cpu": "a CPU", "cores": 2, "threads": 1, "gpu": None, "system": "Linux"},
        "versions": {"torch": "2"}, "arms": arms, "models": {"one": {"seconds": 60.0}}, "tower": {},
        "answering_seconds": 1.0,
    }  # fmt: skip
    common = {"model": "one", "gaze": {}, "policy": {}, "blind": False, "masked": False}
    values = {
        "study": "small", "title": "Small", "asks": "Does it?", "note": "", "size": "cpu",
        "command": "cambrian-gaze study run small --size cpu",
        "models": {"one": {}}, "against": "dense", "lines": ["dense", "gaze"],
        "x_label": "tokens",
        "seeds": {name: {**seed, **own} for name, own in {"0": {}, "1": {}, **(more or {})}.items()},
        "arms": [
            {"name": name, "title": f"the {name}, |C| = 1", "x": x, **common}
            for name, x in (("dense", 64.0), ("gaze", 8.0))
        ],
    }  # fmt: skip
    (folder / "small-cpu.json").write_text(json.dumps(values))


def test_tables_and_figures(tmp_path):
    page = tmp_path / "proof.md"
    page.write_text("# Proof\n\nWords.\n\n<!-- measured -->\n<!-- /measured -->\n\nMore words.\n")
    write_results(tmp_path / "proof")
    changed = draw_page(page)
    text = page.read_text()
    assert text.startswith("# Proof\n\nWords.") and text.endswith("More words.\n")
    assert r"| the gaze, \|C\| = 1 | 64 of 64 | 64 | 0.667 [" in text and "+0.167 [" in text
    assert r"| the gaze, \|C\| = 1 | 20 | 0.250 | 0.500 | 0.750 |" in text
    names = {path.name for path in changed}
    assert names == {
        "proof.md", "small-cpu-hop.svg", "small-cpu-hop-by-place.svg", "small-cpu-hop-budget.svg",
    }  # fmt: skip
    for name in names - {"proof.md"}:
        assert f"](proof/{name})" in text
        drawing = (tmp_path / "proof" / name).read_text()
        ET.fromstring(drawing)
        used = set(re.findall(r"var\((--[\w-]+)\)", drawing))
        assert used <= set(re.findall(r"(--[\w-]+):", drawing)), "a picture alone brings its colours"
    assert draw_page(page) == []


def test_machines_that_differ_are_told_apart(tmp_path):
    page = tmp_path / "proof.md"
    gpu = {"hardware": {"gpu": "a GPU"}, "versions": {"torch": "3"}}
    for more, line in (
        ({}, "2 seeds; questions of each: 3 hop. On a CPU, 1 thread; torch 2. Minutes"),
        (
            {"5": gpu},
            "3 seeds; questions of each: 3 hop. Seeds 0, 1 on a CPU, 1 thread; torch 2. Seed 5 on a GPU; torch 3. M",
        ),
    ):
        page.write_text("<!-- measured -->\n<!-- /measured -->\n")
        write_results(tmp_path / "proof", more)
        draw_page(page)
        assert line in page.read_text()


def test_a_page_without_a_place_is_refused(tmp_path):
    page = tmp_path / "proof.md"
    page.write_text("# Proof\n")
    with pytest.raises(ValueError, match="must hold <!-- measured -->"):
        draw_page(page)
