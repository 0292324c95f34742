import subprocess
import sys

from PIL import Image

from cambrian_gaze.viz.charts.charts import Interval, Series
from cambrian_gaze.viz.overlay import PanelLook, token_panels
from cambrian_gaze.viz.report import (
    AnswerToken,
    Curve,
    Example,
    Intervals,
    Link,
    Recall,
    Report,
    arms_intervals,
    arms_table,
    render_report,
    write_report,
)
from tests.viz._stand_in import tiling, trace_of
from tests.viz.test_html import HOSTILE, checked

ARMS = {
    "dense": {"accuracy": 0.951, "ci95": [0.94, 0.96], "attended_visual_kv": 64.0, "visual_tokens": 64, "n": 2048},
    "gaze_k2": {"accuracy": 0.946, "attended_visual_kv": 12, "visual_tokens": 64, "tokens_per_s": 1234.5, "n": 2048},
    "later": {},
}


def full_report() -> Report:
    image = Image.new("RGB", (16, 16), (0, 0, 90))
    trace = trace_of([[5, 1], [9, 2]], tiling(8, 8, (2, 2)))
    verdicts = {"asked": [5, None], "correct": [True, False]}
    panels = token_panels(trace, [HOSTILE, " 7"], image, look=PanelLook(side=48), **verdicts)
    answer = [AnswerToken("B3: "), AnswerToken(" 7", "7"), AnswerToken(HOSTILE, " 4"), AnswerToken("", "1")]
    example = Example(HOSTILE, answer, image, panels, title=HOSTILE, truth=HOSTILE, note=HOSTILE)
    return Report(
        HOSTILE,
        HOSTILE,
        summary=[HOSTILE, HOSTILE],
        tiles=[(HOSTILE, 1, HOSTILE)],
        tables=[arms_table(ARMS, {"dense": HOSTILE}, strong=["gaze_k2"], title=HOSTILE, note=HOSTILE)],
        intervals=[arms_intervals(ARMS, title=HOSTILE), Intervals(HOSTILE, [Interval(HOSTILE, 0.5, 0.4, 0.6)])],
        pages=[Link("viewer.html", HOSTILE, HOSTILE, [(HOSTILE, image)] * 3), Link("other.html", HOSTILE)],
        examples=[example],
        more_examples=[example, example],
        recalls=[Recall([[0.1, 0.9], [0.5, 0.2]], 0.125, HOSTILE, HOSTILE), Recall([[1.0]], 1.0)],
        curves=[Curve(HOSTILE, [Series(HOSTILE, [0, 1, 2], [3.0, 2.0, 1.0])], note=HOSTILE, log_y=True)],
        facts={HOSTILE: HOSTILE},
        notes=[HOSTILE],
    )


def test_a_full_report_is_self_contained_and_escaped():
    document = render_report(full_report())
    found = checked(document)
    assert "http://" not in document and "https://" not in document
    assert "<script" not in document and found.text.count(HOSTILE) > 20
    assert len(found.loads) == 3 + 3 * 3  # of the link; a page and two panels in each example
    assert found.leads == ["viewer.html", "viewer.html", "other.html"]
    for title in ("Results", "Where it looked", "Routing recall", "Training", "How it ran", "More examples (2)"):
        assert title in found.text


def test_an_empty_report_has_no_empty_sections():
    found = checked(render_report(Report("Nothing yet")))
    assert "section" not in found.tags and "Nothing yet" in found.text


def test_a_link_alone_is_no_example():
    document = render_report(Report("t", pages=[Link("viewer.html", "Look")]))
    assert checked(document).leads == ["viewer.html"] and "chosen most" not in document


def test_answers_show_what_was_read_and_what_is_true():
    tokens = [AnswerToken(" A1:"), AnswerToken(" 7", "7"), AnswerToken(" 9", "4"), AnswerToken("", "1")]
    assert [token.correct for token in tokens] == [None, True, False, False]
    document = render_report(Report("t", examples=[Example("q", tokens)]))
    assert '<span> A1:</span> <span class="tok right">7</span> <span class="tok wrong"' in document
    assert "<s>9</s> <b>4</b>" in document and "<s>nothing</s> <b>1</b>" in document


def test_arms_become_rows():
    table = arms_table(ARMS, {"dense": "all tokens"}, strong=["gaze_k2"])
    assert [row[0] for row in table.rows] == ["all tokens", "gaze_k2", "later"]
    assert table.rows[1][2] is None and table.rows[1][4] == 12 / 64 and list(table.strong) == [1]
    assert "global" not in [column.name for column in table.columns]
    with_global = arms_table({"a": {"accuracy": 0.5, "accuracy_global": 0.25}})
    assert with_global.rows[0][3] == 0.25 and len(with_global.columns) == len(with_global.rows[0])
    assert [row.label for row in arms_intervals(ARMS).rows] == ["dense", "gaze_k2"]


def test_the_report_is_written(tmp_path):
    path = write_report(tmp_path / "runs" / "report.html", full_report())
    checked(path.read_text(encoding="utf-8"))
    assert list(path.parent.iterdir()) == [path]


def test_without_matplotlib_charts_are_tables_and_the_remedy_is_named(monkeypatch):
    drawn = render_report(full_report())
    assert drawn.count("<svg") == 5 and "pip install" not in drawn and "<details><summary>Numbers</summary>" in drawn
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    document = render_report(full_report())
    checked(document)
    assert "<svg" not in document and document.count('<code>pip install "cambrian-gaze[charts]"</code>') == 1
    assert document.count("<table>") == drawn.count("<table>") and ">0.951</td>" in document
    bare = render_report(Report("t", tables=[arms_table(ARMS)]))
    assert "pip install" not in bare, "nothing is missing where there is no chart"


def test_pictures_and_pages_need_no_plotting_library():
    code = (
        "import sys; import cambrian_gaze.viz.report, cambrian_gaze.viz.overlay;"
        "found = {'matplotlib', 'sklearn', 'transformers'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
