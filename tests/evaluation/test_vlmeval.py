"""The methods that VLMEvalKit calls, called as it calls them by a stand-in."""

import pytest
from PIL import Image

from cambrian_gaze.data.records.records import read_records
from cambrian_gaze.evaluation.answers import answer_records
from cambrian_gaze.evaluation.journal import Journal
from cambrian_gaze.evaluation.questions import AnswerOptions
from cambrian_gaze.evaluation.vlmeval import CambrianGazeVLM


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for part in tiny:
        part.save_pretrained(folder)
    return CambrianGazeVLM(str(folder), max_new_tokens=6, device="cpu", top_k=2)


def infer(model, rows, build):
    """What VLMEvalKit does with a model and a benchmark that writes pictures to files."""
    assert not model.is_api
    model.set_dump_image(lambda row: [row["picture"]])
    assert not model.use_custom_prompt("any")
    return [model.generate(message=build(model.dump_image(row, "any"), row), dataset="any") for row in rows]


def test_answers_are_those_of_the_own_code(model, tiny, folder, tmp_path):
    rows = [{"picture": str(folder / f"{n}.png"), "question": "Read B3"} for n in range(3)]
    got = infer(
        model,
        rows,
        lambda files, row: [{"type": "image", "value": files[0]}, {"type": "text", "value": row["question"]}],
    )
    options = AnswerOptions({"max_new_tokens": 6, "do_sample": False}, {"top_k": 2})
    records = list(read_records(folder / "rows.jsonl"))[:3]
    with Journal(tmp_path / "journal.jsonl") as journal:
        own = answer_records(*tiny, records, folder, journal, options)
    assert got == [one["answer"] for one in own]
    assert len(set(got)) > 1


def test_text_alone_and_videos(model, tmp_path):
    assert model.generate("Say something") == model.generate([{"type": "text", "value": "Say something"}])
    for number in range(2):
        Image.new("RGB", (40, 30), (90 * number, 0, 0)).save(tmp_path / f"{number}.png")
    assert isinstance(model.generate([{"type": "video", "value": str(tmp_path)}, "What moves?"]), str)


def test_what_cannot_be_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="type 'audio'"):
        model.generate([{"type": "audio", "value": "a.wav"}])
