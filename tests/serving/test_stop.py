"""Stop texts, over answers whose tokens are known."""

import random

import pytest
import torch

from cambrian_gaze import CambrianGazeProcessor
from cambrian_gaze.serving.stop import ReplyStreamer, StopText, before_stop, held_back


@pytest.mark.parametrize(
    ("text", "stops", "want"),
    [
        ("one\n\ntwo", ["\n\n"], "one"),
        ("one two", ["three"], "one two"),
        ("one two", ["two", "ne"], "o"),
        ("END", ["END"], ""),
        ("one", [], "one"),
    ],
)
def test_the_text_before_the_first_stop(text: str, stops: list[str], want: str) -> None:
    assert before_stop(text, stops) == want


def test_what_may_become_a_stop_text_is_held_back() -> None:
    assert held_back("one E", ["END"]) == 1
    assert held_back("one EN", ["END", "EN X"]) == 2
    assert held_back("one", ["END"]) == held_back("", ["END"]) == held_back("one", []) == 0
    assert held_back("aab", ["abc", "aabb"]) == 3, "the longest"


@pytest.mark.parametrize("seed", range(50))
def test_a_stream_in_any_pieces_says_what_the_whole_answer_does(seed: int) -> None:
    """The answer ends with the piece in which a stop text is complete, as generation does."""
    rng = random.Random(seed)
    stops = ["".join(rng.choices("ab ", k=rng.randint(1, 4))) for _ in range(rng.randint(0, 2))]
    pieces: list[str] = []
    for _ in range(rng.randint(1, 12)):
        pieces.append("".join(rng.choices("ab c", k=rng.randint(0, 3))))
        if any(stop in "".join(pieces) for stop in stops):
            break
    said: list[str] = []
    saying = ReplyStreamer(None, said.append, stops)
    for piece in pieces:
        saying.on_finalized_text(piece)
        assert not any(stop in "".join(said) for stop in stops)
    saying.on_finalized_text("", stream_end=True)
    assert "".join(said) == before_stop("".join(pieces), stops)


def test_generation_ends_at_a_stop_text_of_the_answer_alone() -> None:
    tokenizer = CambrianGazeProcessor.from_preset("tiny").tokenizer
    prompt, answer = tokenizer("END of the prompt").input_ids, tokenizer(" and an END").input_ids
    stop = StopText(tokenizer, ["END"], len(prompt))
    met = [bool(stop(torch.tensor([prompt + answer[:n]]), None)) for n in range(len(answer) + 1)]
    assert met.index(True) == next(n for n in range(len(answer) + 1) if "END" in tokenizer.decode(answer[:n]))
    assert not met[0] and met[-1]
