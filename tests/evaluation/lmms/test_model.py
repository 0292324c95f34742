"""The model of lmms-eval in this process, asked as lmms-eval asks."""

import shutil

import pytest
import torch
from PIL import Image

from tests.evaluation.lmms._asked import NEEDS_LMMS

pytestmark = [pytest.mark.slow, NEEDS_LMMS]
DOCUMENTS = [{"picture": Image.new("RGB", (40, 30), (40 * n, 0, 90)), "text": f"Case {n}?"} for n in range(3)]


def messages(document):
    image = {"type": "image", "url": document["picture"]}
    return [{"role": "user", "content": [image, {"type": "text", "text": document["text"]}]}]


def requests(**generation):
    from lmms_eval.api.instance import Instance

    generation = {"max_new_tokens": 4, "temperature": 0, "until": ["\n\n"]} | generation
    return [
        Instance(
            request_type="generate_until",
            arguments=("", messages, generation, number, "local", "test"),
            idx=0,
            metadata={"task": "local", "doc_id": number, "repeats": 1},
        )
        for number in range(len(DOCUMENTS))
    ]


def answer(folder, asked=None, **options):
    from cambrian_gaze.evaluation.lmms.model import CambrianGaze

    model = CambrianGaze(str(folder), device="cpu", **options)
    model.task_dict = {"local": {"test": DOCUMENTS}}
    return [result.text for result in model.generate_until(requests() if asked is None else asked)]


def test_batches_give_the_same_answers(model_folder):
    alone = answer(model_folder)
    assert len(set(alone)) > 1
    assert answer(model_folder, batch_size=3) == alone


def test_a_journal_is_for_the_same_weights_only(model_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    journal = tmp_path / "kept"
    first = answer(folder, journal=str(journal))
    (file,) = (journal / "journal").glob("*.jsonl")
    assert len(file.read_text().splitlines()) == 3
    assert answer(folder, journal=str(journal)) == first
    assert len(file.read_text().splitlines()) == 3
    from cambrian_gaze import CambrianGazeForConditionalGeneration

    torch.manual_seed(1)
    CambrianGazeForConditionalGeneration.from_preset("tiny").save_pretrained(folder)
    assert answer(folder, journal=str(journal)) != first
    assert len(file.read_text().splitlines()) == 6


def test_a_repeated_request_has_one_answer_where_nothing_is_drawn(model_folder, tmp_path):
    answers = answer(model_folder, requests() + requests(), journal=str(tmp_path))
    assert answers[:3] == answers[3:]
    (file,) = (tmp_path / "journal").glob("*.jsonl")
    assert len(file.read_text().splitlines()) == 3


def test_repeats_are_answered_each(model_folder, tmp_path):
    torch.manual_seed(0)
    asked = [one for one in requests(temperature=5.0, do_sample=True) for _ in range(4)]
    answers = answer(model_folder, asked, journal=str(tmp_path))
    assert len(answers) == 12
    assert len(set(answers[:4])) > 1


def test_gaze_options_are_checked_and_used(model_folder, capsys):
    with pytest.raises(ValueError, match="did you mean 'top_k'"):
        answer(model_folder, top_kk=2)
    answer(model_folder, top_k=1)
    assert "counted: 4+4 of 64" in capsys.readouterr().out


def test_a_policy_keeps_its_budget_and_is_part_of_the_key(model_folder, tmp_path, capsys):
    answer(model_folder, policy="snapkv", budget=8, journal=str(tmp_path))
    assert "counted: 8+4 of 64" in capsys.readouterr().out
    answer(model_folder, policy="infinipot_v", budget=24, top_k=2, journal=str(tmp_path))
    assert " of 64" in capsys.readouterr().out
    answer(model_folder, policy="snapkv", budget=9, journal=str(tmp_path))
    assert "counted: 9+4 of 64" in capsys.readouterr().out
    (file,) = (tmp_path / "journal").glob("*.jsonl")
    assert len(file.read_text().splitlines()) == 9
    for options, said in (
        ({"policy": "snap", "budget": 8}, "did you mean 'snapkv'"),
        ({"policy": "snapkv"}, "needs budget"),
        ({"policy": "snapkv", "budget": 8, "top_k": 2}, "give one of them"),
        ({"budget": 8}, "budget"),
    ):
        with pytest.raises(ValueError, match=said):
            answer(model_folder, **options)


def test_answers_end_at_the_texts_that_the_task_names():
    from cambrian_gaze.evaluation.lmms.model import _cut

    assert _cut("\n\nYes.\n\nNo", ["\n\n"]) == "Yes."
    assert _cut(" Yes ", []) == " Yes "
    assert _cut("a b", ["c"]) == "a b"


def test_generation_options():
    from cambrian_gaze.evaluation.lmms.model import _generation

    greedy = {"max_new_tokens": 16, "do_sample": False, "num_beams": 1}
    assert _generation({"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "until": "x"}) == (greedy, ["x"])
    sampled = {"max_new_tokens": 1024, "do_sample": True, "num_beams": 1, "temperature": 0.7, "top_p": 0.9}
    assert _generation({"temperature": 0.7, "top_p": 0.9, "top_k": None}) == (sampled, [])
