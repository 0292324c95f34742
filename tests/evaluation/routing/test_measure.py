"""Captions said by the tiny model: a router that is planted by hiding all other regions, on padded pictures."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from cambrian_gaze.evaluation.routing.captions import log_probs, say
from cambrian_gaze.evaluation.routing.measure import RoutingOptions, judge
from cambrian_gaze.evaluation.routing.records import Phrase, RoutingRecord
from cambrian_gaze.evaluation.routing.report import write_reports
from cambrian_gaze.evaluation.routing.score import score

pytest.importorskip("pycocotools")
OPTIONS = RoutingOptions(gaze={"top_k": 1}, max_new_tokens=8)


def place(row: int, column: int) -> list[int]:
    """Of a picture of 80x40 pixels, which is padded to 80x80: one of the 4x4 regions of 20x20, rows 1 and 2 of 4."""
    x, y = 20 * column, 20 * (row - 1)
    return [x + 3, y + 3, x + 17, y + 3, x + 17, y + 17, x + 3, y + 17]


@pytest.fixture(autouse=True)
def padded(tiny, monkeypatch) -> None:
    monkeypatch.setattr(tiny[1], "image_aspect_ratio", "pad")


@pytest.fixture
def record(tmp_path) -> RoutingRecord:
    noise = np.random.default_rng(0).integers(0, 255, (40, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "p.png")
    phrases = (
        Phrase("B3 7", (place(1, 2),), ((5, 9),)),
        Phrase("A1", (place(2, 0),)),
        Phrase("C2", (place(2, 1),)),
        Phrase("all", ([0, 0, 80, 0, 80, 40, 0, 40],), ((0, 4),)),
    )
    return RoutingRecord("r", "p.png", phrases, "Read B3 7 A1 4")


def test_tokens_and_the_place_of_their_phrase(tiny, record, tmp_path) -> None:
    model, processor = tiny
    one = judge(model, processor, record, tmp_path, OPTIONS)
    assert [(text, phrase) for text, phrase in zip(one.texts, one.phrases, strict=True)] == [
        ("Read", 3), ("B3", 0), ("7", 0), ("A1", 1),
    ]  # fmt: skip
    assert one.overlapping.tolist() == [8, 1, 1, 1] and one.regions == 16 and one.absent == 1
    assert one.hits.shape == one.share.shape == (4, 3, 4) and (one.kept == 1).all()
    said = say(model, processor, Image.open(tmp_path / "p.png"), record.prompt, gaze={"top_k": 1},
               tokens=processor.tokenizer.encode(record.caption, add_special_tokens=False))  # fmt: skip
    wanted = {0: 4 * 1 + 2, 1: 4 * 2 + 0}  # region in rows of four
    for number, (token, phrase) in enumerate(zip(one.places, one.phrases, strict=True)):
        if phrase in wanted:
            assert (one.hits[number] == (said.regions[token] == wanted[phrase]).any(-1).numpy()).all()
            assert (one.share[number] == one.hits[number]).all()


@pytest.mark.parametrize(("phrase", "region"), [(0, 4 * 1 + 2), (1, 4 * 2 + 0)])
def test_a_planted_router_is_right_and_another_wrong(tiny, record, tmp_path, monkeypatch, phrase, region) -> None:
    """Only one phrase's region is left to choose from: its tokens are right in every head, the other's are not."""
    model, processor = tiny
    hidden = torch.ones(1, 16, dtype=torch.bool)
    hidden[0, region] = False
    plain = model.generate
    monkeypatch.setattr(model, "generate", lambda **options: plain(**options, hidden_regions=hidden))
    one = judge(model, processor, record, tmp_path, RoutingOptions(gaze={"top_k": 1}, counterfactual=False))
    for number, owner in enumerate(one.phrases):
        assert (one.hits[number] == (owner in (phrase, 3))).all()
    assert np.isnan(one.drop).all()


def test_hiding_is_measured_against_as_many_others(tiny, record, tmp_path) -> None:
    model, processor = tiny
    one = judge(model, processor, record, tmp_path, OPTIONS)
    assert not np.isnan(one.drop).any() and one.not_compared == 0  # "all" overlaps 8 of 16: there are as many others
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[1, 4 * 1 + 2] = True
    image = Image.open(tmp_path / "p.png")
    tokens = processor.tokenizer.encode(record.caption, add_special_tokens=False)
    found = log_probs(model, processor, image, record.prompt, gaze={"top_k": 1}, tokens=tokens, hidden=hidden)
    mine = [place for place, owner in zip(one.places, one.phrases, strict=True) if owner == 0]
    fall = (found[0] - found[1])[mine].numpy()
    assert one.drop[[owner == 0 for owner in one.phrases]] == pytest.approx(fall, abs=1e-5)
    assert one.log_probs[1] == pytest.approx(found[0, one.places[1]].item(), abs=1e-5)
    smaller = judge(model, processor, record, tmp_path, RoutingOptions(gaze={"top_k": 1}, batch_size=3))
    assert smaller.drop == pytest.approx(one.drop, abs=1e-5)
    assert smaller.drop_others == pytest.approx(one.drop_others, abs=1e-5)


def test_a_caption_of_the_models_own_comes_back_as_data(tiny, record, tmp_path) -> None:
    model, processor = tiny
    own = RoutingRecord("r", "p.png", (Phrase("the", (place(1, 1),)),))
    one = judge(model, processor, own, tmp_path, OPTIONS)
    assert one.caption and (one.absent == 1) == (not one.spans[0])
    given = judge(model, processor, record, tmp_path, OPTIONS)
    figures = score([given])
    text = write_reports(figures, {"model": "tiny"}, [record], [given], tmp_path / "out")
    assert "4 tokens of 1 captions" in text and "Log-probability of a token falls" in text
    (tmp_path / "out" / "captions.jsonl").rename(tmp_path / "routing.jsonl")
    from cambrian_gaze.evaluation.routing.records import read_records

    (again,) = read_records(tmp_path)
    assert again.caption == record.caption and again.phrases[1].spans == ((10, 12),)
    lines = [json.loads(line) for line in (tmp_path / "out" / "tokens.jsonl").read_text().splitlines()]
    assert [line["token"] for line in lines] == ["Read", "B3", "7", "A1"]


def test_what_cannot_be_judged_is_named(tiny, record, tmp_path) -> None:
    model, processor = tiny
    with pytest.raises(ValueError, match="no layer routes"):
        judge(model, processor, record, tmp_path, RoutingOptions(gaze={"keep_ratio": 1.0}))
    gone = RoutingRecord("x", "gone.png", record.phrases, record.caption)
    with pytest.raises(ValueError, match="record 'x': .*gone.png"):
        judge(model, processor, gone, tmp_path, OPTIONS)
    small = RoutingRecord("x", "p.png", (Phrase("a", ({"size": [9, 9], "counts": [81]},)),), "a")
    with pytest.raises(ValueError, match="record 'x': a mask of 9x9 pixels for a picture of 80x40"):
        judge(model, processor, small, tmp_path, OPTIONS)
