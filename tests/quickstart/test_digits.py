"""The pages: the same for the same specification, held-out digits apart, answers true to the pictures."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from cambrian_gaze.data.records.records import read_records
from cambrian_gaze.quickstart.digits import PageSpec, build_pages, load_digits_split
from cambrian_gaze.quickstart.task import ADDRESSES, NUMBER_WORDS, count_question, read_question

pytest.importorskip("sklearn")
SPEC = PageSpec(train_pages=12, heldout_pages=5, questions_per_page=3, count_share=0.4, variants=3, seed=7)


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages") / "data"
    assert build_pages(folder, SPEC, progress=False)
    return folder


def test_same_specification_same_bytes(folder, tmp_path):
    build_pages(tmp_path / "again", SPEC, progress=False)
    assert files(tmp_path / "again") == files(folder)


def test_another_seed_gives_other_pages(folder, tmp_path):
    build_pages(tmp_path / "other", dataclasses.replace(SPEC, seed=8), progress=False)
    assert files(tmp_path / "other")["pages.jsonl"] != files(folder)["pages.jsonl"]


def test_done_work_is_not_done_again(tmp_path):
    small = dataclasses.replace(SPEC, train_pages=2, heldout_pages=1)
    assert build_pages(tmp_path / "data", small, progress=False)
    assert not build_pages(tmp_path / "data", small, progress=False)
    assert build_pages(tmp_path / "data", dataclasses.replace(small, train_pages=3), progress=False)
    assert len(list((tmp_path / "data" / "images" / "train").iterdir())) == 3


def test_a_folder_of_another_owner_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="was not written by the quickstart"):
        build_pages(tmp_path, SPEC, progress=False)
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_held_out_digits_are_never_trained_on(folder):
    sources = {"train": set(), "heldout": set()}
    for page in read_lines(folder / "pages.jsonl"):
        sources[page["split"]].update(page["sources"])
    _, values, train, heldout = load_digits_split(SPEC)
    assert sources["train"] <= set(train) and sources["heldout"] <= set(heldout)
    assert not set(train) & set(heldout) and len(train) + len(heldout) == len(values)
    shares = np.bincount(values[heldout]) / len(heldout)
    assert np.allclose(shares, np.bincount(values) / len(values), atol=0.01)


def test_records_are_valid_and_true(folder):
    digits = {page["image"]: page["digits"] for page in read_lines(folder / "pages.jsonl")}
    for split, count in (("train", 12 * 3), ("heldout", 5 * 2)):
        records = list(read_records(folder / f"{split}.jsonl"))
        assert len(records) == count == len({record.id for record in records})
        for record in records:
            question, answer = (turn["value"] for turn in record.conversations)
            assert question.startswith("<image>\n")
            page = digits[record.images[0]]
            words = answer.split()
            if words[0] == "Read":
                asked = question.split()[2::2]
                assert question.split()[3::2] == ["_"] * 16
                assert words[1::2] == asked and sorted(asked) == sorted(ADDRESSES)
                assert [int(value) for value in words[2::2]] == [page[ADDRESSES.index(a)] for a in asked]
            else:
                assert words[1::2] == list(NUMBER_WORDS)
                assert [int(count) for count in words[2::2]] == [page.count(digit) for digit in range(10)]


def test_held_out_records_carry_their_target(folder):
    for record in read_records(folder / "heldout.jsonl"):
        assert record.extra["page"] in record.id
        assert len(record.extra["target"]) == (16 if record.extra["family"] == "read" else 10)


def test_pages_show_their_digits(folder):
    images, _, _, _ = load_digits_split(SPEC)
    for page in read_lines(folder / "pages.jsonl"):
        with Image.open(folder / "images" / page["image"]) as image:
            assert image.size == (64, 64)
            pixels = np.asarray(image, dtype="float64") / 255
        if page["split"] == "heldout":
            cells = pixels.reshape(4, 16, 4, 16).transpose(0, 2, 1, 3).reshape(16, 8, 2, 8, 2).mean((2, 4))
            for cell, source in zip(cells, page["sources"], strict=True):
                assert np.corrcoef(cell.ravel(), images[source].ravel())[0, 1] > 0.9


def test_questions_by_hand():
    digits = [1, 7, 7, 0, *range(2, 10), 7, 1, 1, 1]
    read = read_question(digits, [1, 12])
    assert (read.prompt, read.answer) == ("Read A2 _ D1 _", "Read A2 7 D1 7")
    count = count_question(digits)
    assert count.prompt == "How many of each?"
    assert count.answer == "Count zeros 1 ones 4 twos 1 threes 1 fours 1 fives 1 sixes 1 sevens 4 eights 1 nines 1"
    assert dict(count.target)["sevens"] == 4


@pytest.mark.parametrize("bad", [{"read_cells": 17}, {"variants": 0}])
def test_bad_specifications(bad):
    with pytest.raises(ValueError, match="must be"):
        PageSpec(**bad)
