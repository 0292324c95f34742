"""Samples taken apart: every token once, with its role; pictures as the tower gets them."""

import numpy as np
import pytest
from PIL import Image

from cambrian_gaze.data.dataset import SampleOptions
from cambrian_gaze.data.inspect.preview import CONTROL, MAX_FRAMES, Token, VisualRun, preview_row, spread
from cambrian_gaze.data.media.aspect import pad_to_square
from cambrian_gaze.data.mixture.mixture import Mixture, MixtureDataset
from cambrian_gaze.data.mixture.recipe import recipe_of
from tests.data._stand_ins import turns, write_image, write_jsonl

MEAN = STD = (0.5, 0.5, 0.5)


@pytest.fixture
def show(tmp_path, processor):
    def preview(*rows):
        path = write_jsonl(tmp_path / "rows.jsonl", list(rows))
        mixture = Mixture(recipe_of([str(path)], str(tmp_path)))
        dataset = MixtureDataset(mixture, processor, SampleOptions(on_error="raise"))
        return [preview_row(dataset, 0, index, MEAN, STD) for index in range(len(rows))]

    return preview


def test_tokens_carry_their_roles(show, tmp_path, processor):
    write_image(tmp_path / "a.png", (200, 30, 90), (16, 8))
    talk = turns("<image>\nWho is 素?", "A\ncat.", "And?", "No.", system="Be brief.")
    (preview,) = show({"id": "x", "image": "a.png", "conversations": talk})
    text = [piece for piece in preview.pieces if isinstance(piece, Token)]
    (run,) = [piece for piece in preview.pieces if isinstance(piece, VisualRun)]
    assert (run.name, run.frames, run.grid, run.num_context_tokens) == ("image 1", 1, (2, 3), 2)
    assert [piece.place for piece in text] == [*range(run.place), *range(run.place + 8, preview.num_tokens)]

    def said(role, supervised=None):
        return "".join(t.text for t in text if t.role == role and supervised in (None, t.supervised))

    assert said("system") == "Be brief." and said("user") == "\nWho is 素?And?"
    assert said("assistant", True) == "A\ncat.No." and said("assistant", False) == "" == said("user", True)
    assert said(CONTROL, True) == "<|im_end|>" * 2
    assert preview.num_visual == 8 and preview.num_supervised == sum(t.supervised for t in text)
    assert not any("\ufffd" in t.text for t in text)
    (picture,) = preview.pictures
    expected = pad_to_square(Image.open(tmp_path / "a.png").convert("RGB"), MEAN).resize((8, 8), Image.BICUBIC)
    assert picture.name == "image 1"
    assert np.abs(np.asarray(picture.image).astype(int) - np.asarray(expected)).max() <= 1


def test_long_videos_show_some_frames(show, tmp_path):
    for number in range(20):
        write_image(tmp_path / "film" / f"{number}.png", (10 * number, 0, 0))
    write_image(tmp_path / "a.png")
    talk = turns("<image> <video>", "x")
    (preview,) = show({"image": "a.png", "video": "film", "conversations": talk})
    assert [p.name for p in preview.pictures][:2] == ["image 1", "video 1, frame 1"]
    assert preview.pictures[-1].name == "video 1, frame 20" and preview.hidden_frames == 20 - MAX_FRAMES
    assert [p.image.getpixel((0, 0))[0] for p in preview.pictures[1:]] == [10 * i for i in spread(20, MAX_FRAMES)]
    runs = [piece for piece in preview.pieces if isinstance(piece, VisualRun)]
    assert [(run.name, run.frames) for run in runs] == [("image 1", 1), ("video 1", 20)]


def test_bad_rows_say_why(show):
    bad, worse = show({"id": "b", "image": "none.png", "conversations": turns("<image>?", "x")}, [1])
    assert "'none.png' cannot be found" in bad.error and "Remedy" in bad.error and bad.row == 1
    assert bad.turns == [("human", "<image>?"), ("gpt", "x")] and not bad.pieces
    assert "not an object" in worse.error and (worse.row, worse.turns) == (2, [])


def test_spread():
    assert spread(3, 8) == [0, 1, 2] and spread(20, 3) == [0, 10, 19] and spread(0, 3) == [] and spread(9, 1) == [0]
