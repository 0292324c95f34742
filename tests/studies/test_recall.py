"""Did the heads look where the next word is read from?"""

from cambrian_gaze.data.records.records import Record
from cambrian_gaze.studies.recall import routing_recall


class Words:
    """A tokenizer of whole words, two tokens for those with a dash."""

    def decode(self, tokens, skip_special_tokens=True):
        return " ".join(tokens).replace(" -", "").replace(" <end>", "")


def record(*words):
    meta = {"answer_regions": [{"text": text, "regions": regions} for text, regions in words]}
    return Record(id="a", conversations=[], extra={"meta": meta})


def test_shares_of_heads_by_the_query_that_predicts_the_word():
    asked = record(("Hop", []), ("B3x", [4]), ("7", [2]), ("8", [1, 2]))
    answer = {
        "answer": "Hop B3x 7 8",
        "tokens": ["Hop", "B3", "-x", "7", "8", "<end>"],
        # [tokens][layers][heads][K]: one layer, two heads
        "regions": [[[[9], [9]]], [[[4], [9]]], [[[9], [9]]], [[[2], [2]]], [[[1], [1]]], [[[0], [0]]]],
    }
    found = routing_recall([asked], [answer], Words())
    assert found == {"words": 2, "any_head": 1.0, "mean_head": 0.75, "best_head": 1.0, "table": [[1.0, 0.5]]}


def test_wrong_answers_say_nothing():
    assert routing_recall([record(("Hop", []), ("B3", [4]))], [{"answer": "Hop B4"}], Words()) == {"words": 0}
