"""`cambrian-gaze gazebench`: a data root that `eval run` reads, a page of samples, errors in one line."""

import json

import pytest

from cambrian_gaze.cli.gazebench import KNOBS, build_parser, main
from cambrian_gaze.evaluation.benchmarks import BENCHMARKS
from cambrian_gaze.evaluation.benchmarks.gazebench import DATASET, ROWS
from cambrian_gaze.evaluation.benchmarks.rows import BenchmarkRows
from cambrian_gaze.gazebench import make
from cambrian_gaze.gazebench.spec import GazeBenchSpec

SMALL = "--families hop stream --glyph 8 --test 3 --validation 1 --frames 2 --hops 2 --reads 2 --length 3".split()


def test_make_then_show(tmp_path, capsys):
    root, page = str(tmp_path / "root"), tmp_path / "page" / "samples.html"
    assert main(["make", "--data_root", root, *SMALL, "--seed", "4", "--grid", "3", "2"]) == 0
    assert "written" in capsys.readouterr().out
    rows = BenchmarkRows(BENCHMARKS["gazebench_hop"], root)
    assert len(rows) == 3 and rows[0]["meta"]["grid"] == [3, 2] and len(rows[0]["answer"].split()) == 4
    assert json.loads((tmp_path / "root" / DATASET / "spec.json").read_text())["seed"] == 4
    assert main(["make", "--data_root", root, *SMALL, "--seed", "4", "--grid", "3", "2"]) == 0
    assert "there already" in capsys.readouterr().out
    assert main(["show", "--data_root", root, "--output", str(page), "--count", "1"]) == 0
    assert page.read_text().count("<article") == 2


def test_the_benchmark_reads_where_make_writes():
    assert make.DATASET == DATASET and GazeBenchSpec().test == ROWS


def test_options_are_the_knobs():
    parsed = vars(build_parser("make").parse_args(["--data_root", "root"]))
    standard = GazeBenchSpec().to_dict()
    for name in KNOBS:
        value = parsed[name]
        assert (list(value) if isinstance(value, tuple) else value) == standard[name], name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make", "--hops", "99"], "hops must be between 1 and 16"),
        (["show", "--output", "page.html"], "gazebench make --data_root"),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--data_root", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
