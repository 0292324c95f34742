"""Reports per source, the list of rows to leave out, and what counts as clean."""

import json
import os
import signal

import pytest

from cambrian_gaze.data.inspect import survey as survey_module
from cambrian_gaze.data.inspect.check import check, is_clean
from cambrian_gaze.data.inspect.record import Inspected, Inspector
from cambrian_gaze.data.inspect.survey import WorkerDied
from cambrian_gaze.data.mixture.recipe import load_recipe, recipe_of
from cambrian_gaze.data.quarantine import read_quarantine
from tests.data._stand_ins import turns, write_image, write_jsonl


def row(number, **more):
    return {"id": str(number), "image": "a.png", "conversations": turns("<image>?", "x"), **more}


@pytest.fixture
def folder(tmp_path):
    write_image(tmp_path / "a.png")
    return tmp_path


def recipe_file(folder, content, **expected):
    write_jsonl(folder / "rows.jsonl", content)
    entry = {"path": "rows.jsonl", "image_folder": ".", "expected": expected}
    (folder / "recipe.yaml").write_text(json.dumps({"datasets": [entry]}))
    return load_recipe(folder / "recipe.yaml")


def test_counts_and_differences_from_what_is_expected(folder):
    rows = [row(1), row(2), row(1), {"id": "t", "conversations": turns("?", "x")}]
    (report,) = check(recipe_file(folder, rows, rows=5, images=3, duplicates=0), Inspector(), workers=0)
    facts = report.survey.facts
    assert (facts.rows, facts.images, facts.videos, facts.text_only, facts.duplicates) == (4, 3, 0, 1, 1)
    assert report.differences == {"rows": (5, 4), "duplicates": (0, 1)}
    assert not report.clean and facts.bad_rows == 0
    assert report.to_dict()["differences"]["rows"] == {"expected": 5, "found": 4}
    (report,) = check(recipe_file(folder, rows, rows=4, duplicates=1), Inspector(), workers=0)
    assert report.clean and is_clean([report])


def test_rows_without_an_id_repeat_each_other_too(folder):
    def film(start):
        return {"video": "frames", "conversations": turns("<video>", "x"), "start_time": start}

    rows = [{"conversations": turns("?", "x")}] * 3 + [{**row(1), "id": None}] * 2 + [film(0), film(1), film(1)]
    (report,) = check(recipe_file(folder, rows), Inspector(media="exists"), workers=0)
    assert report.survey.facts.duplicates == 2 + 1 + 1


def test_missing_media_that_are_expected_are_no_finding(folder):
    rows = [row(1), row(2, image="gone.png")]
    assert check(recipe_file(folder, rows, missing=1), Inspector(), workers=0)[0].clean
    assert not check(recipe_file(folder, rows, missing=2), Inspector(), workers=0)[0].clean
    assert not check(recipe_file(folder, rows), Inspector(), workers=0)[0].clean


def test_a_list_of_what_to_leave_out_without_the_overlong(folder, processor):
    rows = [row(1), row(2, image="gone.png"), row(3, conversations=turns("<image>?", "long " * 500)), 7]
    recipe = recipe_file(folder, rows)
    (report,) = check(recipe, Inspector(processor=processor, max_length=400), 0, folder / "out" / "q.jsonl")
    assert report.survey.facts.problems == {"missing": 1, "overlong": 1, "malformed": 1}
    entries = read_quarantine(folder / "out" / "q.jsonl")
    assert [(e["file"], e["row"], e["id"], e["source"]) for e in entries] == [
        (recipe.sources[0].path, 2, "2", "rows"),
        (recipe.sources[0].path, 4, "", "rows"),
    ]
    assert os.listdir(folder / "out") == ["q.jsonl"]
    histogram = report.to_dict()["token_histogram"]
    assert sum(one["samples"] for one in histogram) == 3 and histogram[0]["from"] == 0


def test_workers_find_what_one_process_finds(folder):
    rows = [row(n, image="gone.png") if n % 7 == 0 else row(n) for n in range(700)]
    recipe = recipe_file(folder, rows)
    reports = [check(recipe, Inspector(), n, folder / f"{n}.jsonl")[0].to_dict() for n in (0, 2)]
    assert reports[0] == reports[1] and reports[0]["problems"]["missing"] == 100
    assert (folder / "0.jsonl").read_bytes() == (folder / "2.jsonl").read_bytes()


def test_a_file_that_cannot_be_read_at_all_is_a_finding(folder):
    (folder / "cut.json").write_text('[{"id": 1')
    write_jsonl(folder / "good.jsonl", [row(1)])
    paths = [str(folder / name) for name in ("cut.json", "none.jsonl", "good.jsonl")]
    broken, missing, good = check(recipe_of(paths, str(folder)), Inspector(), workers=0)
    assert "is not a valid JSON array" in broken.survey.broken and "does not exist" in missing.survey.broken
    assert [broken.clean, missing.clean, good.clean] == [False, False, True]


class Killer(Inspector):
    """Dies of one record, as a decoder written in C may."""

    def row(self, records, index, folders):
        if records[index].id == "bad":
            os.kill(os.getpid(), signal.SIGSEGV)
        return Inspected(row=index + 1)


@pytest.mark.parametrize(("rows", "bad"), [(3 * survey_module._CHUNK, 300), (10, 7)], ids=["large", "small"])
def test_a_worker_that_dies_is_told_with_its_row(folder, rows, bad):
    recipe = recipe_file(folder, [row("bad" if n == bad else n) for n in range(rows)])
    path = folder / "rows.jsonl"
    path.write_text("\n\n" + path.read_text())  # a row's number is its line
    with pytest.raises(WorkerDied, match=rf"died while it read row {bad + 3} of \S*rows.jsonl .*use fewer --workers"):
        check(recipe, Killer(), 2, folder / "q.jsonl")
    assert not [name for name in os.listdir(folder) if "q.jsonl" in name]
