"""Heat: what a page carries of attention weights, that its script counts as Python does, and figures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cambrian_gaze.viz import heat as heat_module
from cambrian_gaze.viz.draw import MAX_ALPHA
from cambrian_gaze.viz.figure import figure
from cambrian_gaze.viz.heat import heat_cells, page_heat
from cambrian_gaze.viz.html import inflated
from cambrian_gaze.viz.render import overlay, render_svg, write_figure
from cambrian_gaze.viz.trace import ALL, NONE, Trace
from cambrian_gaze.viz.viewer import viewer_data, viewer_page
from tests.viz._node import in_node
from tests.viz._traces import make_trace, noise, with_weights


def unpacked(trace: Trace, packed: dict) -> np.ndarray:
    """The weights [T, layers, N] that a page holds."""
    cells = np.frombuffer(inflated(packed["cells"]), np.uint8).reshape(len(trace.tokens), packed["layers"], -1)
    most = np.frombuffer(inflated(packed["most"]), "<f4").reshape(len(trace.tokens), packed["layers"], 1)
    return (cells / 255.0) ** 2 * most


def large(layers: int, frames: int = 1, side: int = 24) -> Trace:
    """60 tokens of a model of many layers, whose weights no packing makes smaller."""
    trace = make_trace(
        [[noise(40, 40, n) for n in range(frames)]],
        grid=(side, side),
        region=(4, 4),
        tokens=[" w"] * 60,
        layers=layers,
        heads=32,
        k=16,
    )
    draw = np.random.default_rng(0)
    trace.attention = (draw.exponential(1.0, (60, layers, trace.num_visual)) / trace.num_visual).astype(np.float16)
    trace.region_mass = draw.random(trace.regions.shape).astype(np.float16) / 16
    trace.role_mass = draw.dirichlet(np.ones(3), (60, layers)).astype(np.float16)
    return trace


def test_a_page_holds_the_weights_in_8_bits() -> None:
    trace = with_weights(make_trace(layers=3))
    packed = page_heat(trace, 1 << 20)
    assert packed["layers"] == 3 and packed["by_head"]
    found, want = unpacked(trace, packed), trace.attention.astype(np.float64)
    assert (np.abs(np.sqrt(found) - np.sqrt(want)) <= np.sqrt(want.max(-1, keepdims=True)) * 0.502 / 255).all()
    assert ((found == 0) >= (want == 0)).all()
    assert page_heat(make_trace(), 1 << 20) is None


def test_what_is_too_large_is_the_mean_over_layers_or_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = with_weights(make_trace(layers=6))
    whole = page_heat(trace, 1 << 20)
    packed = page_heat(trace, len(whole["cells"]) - 1)
    assert packed["layers"] == 1
    np.testing.assert_allclose(unpacked(trace, packed)[:, 0], trace.attention.mean(1), atol=1e-3)
    about = dict(viewer_data(trace)["about"])
    assert about["heat here"] == "attention weights of each layer, in 8 bits"
    monkeypatch.setattr(heat_module, "MAX_HEAT", len(packed["cells"]))
    assert "mean over layers: those of each layer would make" in dict(viewer_data(trace)["about"])["heat here"]
    monkeypatch.setattr(heat_module, "MAX_HEAT", 10)
    data = viewer_data(trace)
    assert data["heat"] is None and "would make this page too large" in dict(data["about"])["heat here"]
    assert "heat here" not in dict(viewer_data(make_trace())["about"])


@pytest.mark.parametrize(("layers", "frames", "held"), [(36, 1, 36), (36, 4, 1), (1, 64, None)])
def test_sixty_tokens_of_a_large_model_weigh_less_than_five_megabytes(layers: int, frames: int, held: int) -> None:
    trace = large(layers, frames)
    page = viewer_page(trace)
    assert len(page.encode()) < 5_000_000
    heat = viewer_data(trace)["heat"]
    assert (heat and heat["layers"]) == held


def test_a_trace_of_sixty_tokens_is_a_few_megabytes(tmp_path: Path) -> None:
    trace = large(36)
    with_, without = trace.save(tmp_path / "with.safetensors"), large(36)
    without.attention = without.region_mass = without.role_mass = None
    more = with_.stat().st_size - without.save(tmp_path / "without.safetensors").stat().st_size
    assert 2_000_000 < more < 5_000_000


def test_the_script_counts_as_python_does(tmp_path: Path) -> None:
    trace = with_weights(make_trace([[noise(48, 48)], [noise(32, 20, n) for n in range(3)]], layers=3))
    script = (
        "const told = []; for (let t = 0; t < trace.T; t++) told.push({all: [...trace.heatOf(t, 'all')],"
        "layer: [...trace.heatOf(t, 1)], roles: trace.rolesOf(t, 'all'), one: trace.rolesOf(t, 2),"
        "head: trace.headMass(t, 1, 2)}); const words = [...trace.heatWords(10, 'all')];"
        "trace.whole = true; console.log(JSON.stringify({told, words, whole: [...trace.heatOf(1, 0)],"
        "cells: trace.cellsOf(10)}));"
    )
    answer, close = in_node(trace, script, tmp_path), {"atol": 2e-3, "rtol": 2e-2}
    for t, told in enumerate(answer["told"]):
        np.testing.assert_allclose(told["all"], trace.heat(t), **close)
        np.testing.assert_allclose(told["layer"], trace.heat(t, [1]), **close)
        np.testing.assert_allclose(told["roles"], trace.role_mass[t].astype(float).mean(0), **close)
        np.testing.assert_allclose(told["one"], trace.role_mass[t, 2], **close)
        assert told["head"] == pytest.approx(trace.mass(t, 1, 2).sum(), abs=3e-3)
    item, start, end, top, left, bottom, right = trace.boxes[10].tolist()
    number = np.arange(36, 36 + 108).reshape(3, 6, 6) if item else np.arange(36).reshape(1, 6, 6)
    assert answer["cells"] == number[start:end, top:bottom, left:right].ravel().tolist()
    np.testing.assert_allclose(answer["words"], [trace.heat(t)[answer["cells"]].sum() for t in range(6)], **close)
    np.testing.assert_allclose(answer["whole"], trace.heat(1, [0]), **close)


def hot_corner() -> Trace:
    """All attention to pictures lies on one visual token, row 1, column 4, a quarter of it as much on another."""
    trace = with_weights(make_trace([[noise(60, 60)], [noise(60, 30, 1)]], aspect="square"))
    trace.attention[:] = 0
    trace.attention[:, :, 36 + 6 + 4] = 0.5
    trace.attention[:, :, 36 + 12] = 0.125
    return trace


def test_a_figure_washes_what_was_attended_to() -> None:
    trace = hot_corner()
    plan = figure(trace, tokens=[2], heat=True)
    (panel,) = plan.rows[0]
    assert panel.unit == (1, 0), "the picture with the most of it"
    assert panel.heat[trace.entries(*panel.unit)].max() == 1
    cells = dict(heat_cells(trace, panel.heat, panel.unit))
    assert cells == {(40, 5, 50, 10): MAX_ALPHA, (0, 10, 10, 15): pytest.approx(MAX_ALPHA / 2, abs=1e-3)}
    drawn, plain = np.asarray(overlay(trace, panel, top=0)), np.asarray(trace.items[1].picture())
    changed = (drawn != plain).any(-1)
    assert changed[5:10, 40:50].all() and changed[10:15, :10].all() and changed.sum() == 100
    svg = render_svg(trace, plan, top=0)
    assert f'fill-opacity="{MAX_ALPHA:.3f}"' in svg and f'fill-opacity="{MAX_ALPHA / 2:.3f}"' in svg


def test_panels_have_one_scale() -> None:
    trace = hot_corner()
    trace.attention[:, 1] /= 2
    plan = figure(trace, "layer", tokens=[0, 1], heat=True)
    assert [[round(float(panel.heat.max()), 3) for panel in row] for row in plan.rows] == [[1, 0.5], [1, 0.5]]


def test_files_of_every_kind(tmp_path: Path) -> None:
    trace = hot_corner()
    plan = figure(trace, tokens=[0, 1], heat=True)
    for suffix in (".png", ".svg", ".pdf", ".gif"):
        assert write_figure(tmp_path / f"x{suffix}", trace, plan, side=60).stat().st_size > 500
    assert Image.open(tmp_path / "x.png").width > 120


def test_what_a_trace_has_not_is_said() -> None:
    bare, trace = make_trace(), hot_corner()
    bare.missing["attention"] = "nobody asked"
    for one, options, said in (
        (bare, {}, "no attention weights: nobody asked"),
        (trace, {"by": "head"}, "mean over heads"),
        (trace, {"heads": [0]}, "mean over heads"),
        (trace, {"layers": [9]}, "layer 9"),
    ):
        with pytest.raises(ValueError, match=said):
            figure(one, **options, heat=True)
    trace.attention = trace.attention.mean(1, keepdims=True)
    with pytest.raises(ValueError, match="no heat of single layers"):
        figure(trace, "layer", heat=True)
    dense = with_weights(dense_trace())
    assert figure(dense, heat=True).rows and (dense.heat(0) > 0).all()


def dense_trace() -> Trace:
    chosen = np.full((6, 2, 3, 2), NONE)
    chosen[..., 0] = ALL
    return make_trace(chosen=chosen)
