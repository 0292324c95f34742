"""The viewer's page: what it carries, what it weighs, and in Node that it counts as Python does."""

import base64
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from cambrian_gaze.viz.html import deflated, inflated
from cambrian_gaze.viz.trace import ALL, NONE, Trace
from cambrian_gaze.viz.viewer import frame, pack_regions, viewer_data, viewer_page, write_viewer
from tests.viz._node import in_node
from tests.viz._traces import make_trace, noise


class Parts(HTMLParser):
    """Scripts and their texts, and every address in the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict, str]] = []
        self.addresses: list[str] = []
        self._open = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action")]
        self._open = tag == "script"
        if self._open:
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data):
        if self._open:
            attributes, text = self.scripts.pop()
            self.scripts.append((attributes, text + data))

    def handle_endtag(self, tag):
        self._open = False


def nasty() -> Trace:
    text = "</script><script>alert(1)</script><img src=x onerror=alert(1)> {data} {script} <!-- \u2028 &amp;"
    trace = make_trace(prompt=text, tokens=[text, "a", "<end>"])
    trace.model["name"] = text
    trace.missing["x"] = text
    trace.top_tokens[0][0] = text
    return trace


def test_texts_stay_texts() -> None:
    trace = nasty()
    parts = Parts(viewer_page(trace))
    assert len(parts.scripts) == 2 and parts.addresses == []
    (kind, data), (_, code) = parts.scripts
    assert kind["type"] == "application/json"
    assert json.loads(data)["tokens"] == trace.tokens
    assert "alert(1)" not in code
    assert viewer_page(trace).count("<script") == 2


def test_the_page_runs_its_own_script_alone_and_loads_nothing() -> None:
    import hashlib

    page = viewer_page(make_trace())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1)
    code = Parts(page).scripts[1][1]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)


def test_sixty_tokens_of_a_large_model_weigh_less_than_five_megabytes() -> None:
    """60 tokens, 36 layers, 32 heads, 4 of 64 regions at random, which deflate the least; a photo of 1,600 pixels."""
    trace = make_trace(
        [[noise(1600, 1200)]], grid=(32, 32), region=(4, 4), tokens=[" word"] * 60, layers=36, heads=32, k=4
    )
    assert len(viewer_page(trace).encode()) < 5_000_000


def test_a_video_weighs_less_than_five_megabytes() -> None:
    frames = [noise(320, 180, seed) for seed in range(32)]
    trace = make_trace([frames], grid=(12, 12), region=(6, 6), tokens=[" word"] * 60, layers=36, heads=32, k=12)
    assert len(viewer_page(trace).encode()) < 5_000_000


@pytest.mark.slow
def test_so_does_a_video_of_128_frames_with_112_of_512_regions_at_random() -> None:
    frames = [noise(160, 90, seed) for seed in range(128)]
    trace = make_trace([frames], grid=(12, 12), region=(6, 6), tokens=[" word"] * 60, layers=36, heads=32, k=112)
    data = viewer_data(trace)
    assert len(viewer_page(trace).encode()) < 5_000_000
    assert dict(data["about"])["pictures here"] == "made smaller, to 48 pixels at most"


@pytest.mark.parametrize("length", range(9))
def test_arrays_come_through_the_page_as_they_were(length: int) -> None:
    array = np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8)
    text = deflated(array)
    assert inflated(text) == array.tobytes() and not set(text) & set('&<>"\\')


@pytest.mark.parametrize(
    ("count", "k", "packing"),
    [(16, 2, "list8"), (16, 3, "mask"), (254, 4, "list8"), (900, 5, "list16"), (900, 70, "mask")],
)
def test_regions_are_packed_in_the_smallest_form(count: int, k: int, packing: str) -> None:
    trace = make_trace(grid=(1, count), region=(1, 1), k=k)
    trace.regions[0, 0, 0] = [ALL] + [NONE] * (k - 1)
    trace.regions[0, 0, 1, 1:] = NONE
    form, packed = pack_regions(trace.regions, count)
    assert form == packing
    steps, layers, heads, _ = trace.regions.shape
    for place in np.ndindex(steps, layers, heads):
        expected = {r for r in trace.regions[place].tolist() if r >= 0}
        if form == "mask":
            found = set(np.flatnonzero(np.unpackbits(packed[place], bitorder="little")).tolist())
            assert found == (set(range(count)) if trace.regions[place][0] == ALL else expected)
        else:
            assert {r for r in packed[place].tolist() if r < count} == expected
            assert (np.iinfo(packed.dtype).max - 1 in packed[place]) == (trace.regions[place][0] == ALL)


def test_places_are_those_of_the_trace() -> None:
    trace = make_trace([[noise(90, 40)], [noise(40, 90, seed) for seed in range(2)]], aspect="pad")
    data = viewer_data(trace)
    assert [tuple(place[3:7]) for place in data["places"]] == trace.pixels
    assert [tuple(place[:3]) for place in data["places"]] == [tuple(box[:3]) for box in trace.boxes.tolist()]
    assert [place[7:] for place in data["places"][:4]] == [[0, 0], [0, 1], [0, 2], [1, 0]]
    assert [(unit["item"], unit["frame"]) for unit in data["units"]] == trace.units
    packed = inflated(data["attended"])
    assert np.frombuffer(packed, "<u4").reshape(trace.attended.shape).tolist() == trace.attended.tolist()


def test_large_pictures_are_made_smaller_and_places_stay() -> None:
    trace = make_trace([[noise(3000, 1500)]])
    data = viewer_data(trace)
    assert data["units"][0]["size"] == [3000, 1500] and len(data["units"][0]["src"]) < 1_500_000
    assert data["places"][8][3:7] == [2000, 1000, 3000, 1500]
    assert ["pictures here", "made smaller, to 1280 pixels at most"] in [list(row) for row in data["about"]]
    assert "pictures here" not in dict(viewer_data(make_trace())["about"])


def test_numbers_that_json_lacks(tmp_path: Path) -> None:
    trace = make_trace()
    trace.logprobs[0], trace.top_logprobs[0, 4] = np.nan, -np.inf
    write_viewer(tmp_path / "x.html", trace)
    data = viewer_data(trace)
    assert data["logprobs"][0] == data["top"][0][4][1] == -99.0


def test_notebooks_show_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = nasty()
    text = frame(trace, 500)
    assert text == trace._repr_html_(500)
    assert text.startswith("<iframe") and 'sandbox="allow-scripts"' in text and text.count("<") == 2
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    display = ModuleType("IPython.display")
    display.HTML = str
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    assert trace.show(500) == text


def test_the_script_counts_as_python_does(tmp_path: Path) -> None:
    for number, (count, k) in enumerate([(16, 2), (36, 7), (900, 5)]):
        trace = make_trace(grid=(1, count), region=(1, 1), k=k, seed=number)
        trace.regions[0, 0, 0] = [ALL] + [NONE] * (k - 1)
        trace.regions[1, 1, 1] = NONE
        script = (
            "const told = []; for (let t = 0; t < trace.T; t++) {"
            "const all = trace.look(t, {layer: 'all', head: 'all'}), best = trace.best(t);"
            "told.push({all: [...all.share], dense: all.dense, best,"
            "layer: [...trace.look(t, {layer: 1, head: 'all'}).share],"
            "head: [...trace.look(t, {layer: 0, head: 2}).share],"
            "top: trace.top(t, {layer: 'all', head: 'all'}, 1)[0],"
            "bestShare: [...trace.look(t, {layer: 'best', head: 'all'}).share],"
            "entries: trace.entries(t, {layer: 0, head: 1})}); }"
            "console.log(JSON.stringify({told, words: [...trace.words(3, {layer: 'all', head: 'all'})]}));"
        )
        answer = in_node(trace, script, tmp_path)
        for t, told in enumerate(answer["told"]):
            share = trace.share(t)
            np.testing.assert_allclose(told["all"], share)
            np.testing.assert_allclose(told["layer"], trace.share(t, [1]))
            np.testing.assert_allclose(told["head"], trace.share(t, [0], [2]))
            assert told["top"] == int(np.argmax(share)) and told["dense"] == int(t == 0)
            agreement = [
                (np.mean([share[r] for r in row if r >= 0]), (layer, head))
                for layer, head in np.ndindex(trace.regions.shape[1:3])
                if (row := trace.regions[t, layer, head])[0] >= 0
            ]
            most = max(value for value, _ in agreement)
            assert tuple(told["best"]) == next(place for value, place in agreement if value > most - 1e-9)
            np.testing.assert_allclose(told["bestShare"], trace.share(t, [told["best"][0]], [told["best"][1]]))
            assert told["entries"] == [8, 4, 30]
        np.testing.assert_allclose(answer["words"], [trace.share(t)[3] for t in range(len(trace.tokens))])
