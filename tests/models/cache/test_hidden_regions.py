"""Regions that text queries are denied at run time: in the prompt, in decoding, by every backend."""

import pytest
import torch
from PIL import Image

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor

HIDDEN = torch.tensor([[True, False, False, True] + [False] * 12, [False] * 15 + [True]])
REGIONS = 16


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return CambrianGazeForConditionalGeneration.from_preset("tiny").eval(), CambrianGazeProcessor.from_preset("tiny")


@pytest.fixture(scope="module")
def inputs(tiny):
    content = [{"type": "image", "image": Image.effect_noise((64, 64), 90)}, {"type": "text", "text": "\nWhat is it?"}]
    shorter = [{"type": "image", "image": Image.effect_noise((64, 64), 90)}, {"type": "text", "text": "Say"}]
    messages = [[{"role": "user", "content": one}] for one in (content, shorter)]
    return tiny[1].apply_chat_template(messages, add_generation_prompt=True, tokenize=True)


def answer(model, inputs, **options):
    length = {"min_new_tokens": 6, "max_new_tokens": 6, "do_sample": False}
    return model.generate(**inputs, **length, return_gaze=True, output_logits=True, **options)


def test_what_is_hidden_is_never_chosen_and_never_read(tiny, inputs) -> None:
    model, _ = tiny
    plain = answer(model, inputs, gaze={"top_k": 2})
    hidden = answer(model, inputs, gaze={"top_k": 2}, hidden_regions=HIDDEN)
    for row, denied in enumerate(HIDDEN):
        assert not denied[hidden.gaze.regions[row]].any() and (hidden.gaze.attended_visual[row] == 8).all()
        assert denied[plain.gaze.regions[row]].any()
    # A budget for every region is one for those that are left.
    everything = answer(model, inputs, gaze={"top_k": REGIONS}, hidden_regions=HIDDEN).gaze
    assert (everything.attended_visual[0] == 56).all() and (everything.attended_visual[1] == 60).all()


@pytest.mark.parametrize("top_k", [2, REGIONS])
def test_prefill_and_decoding_agree(tiny, inputs, top_k: int) -> None:
    model, _ = tiny
    output = answer(model, inputs, gaze={"top_k": top_k}, hidden_regions=HIDDEN)
    length = inputs["input_ids"].shape[1]
    whole = {name: inputs[name] for name in ("pixel_values", "grid_thw")} | {
        "input_ids": output.sequences,
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (0, 6), value=1),
        "mm_token_type_ids": torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 6)),
    }
    with torch.no_grad():
        logits = model(**whole, gaze={"top_k": top_k}, hidden_regions=HIDDEN).logits[:, length - 1 : -1]
        others = model(**whole, gaze={"top_k": top_k}).logits[:, length - 1 : -1]
    torch.testing.assert_close(logits, torch.stack(output.logits, 1), atol=2e-5, rtol=2e-5)
    assert (logits - others).abs().max() > 1e-4


def test_backends_agree(tiny, inputs) -> None:
    model, _ = tiny
    with torch.no_grad():
        logits, expected = (
            model(**inputs, gaze={"top_k": 3, "backend": backend}, hidden_regions=HIDDEN).logits
            for backend in ("varlen_reference", "masked")
        )
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(logits[real], expected[real], atol=2e-5, rtol=2e-5)


def test_beams_carry_it(tiny, inputs) -> None:
    output = answer(tiny[0], inputs, gaze={"top_k": 2}, hidden_regions=HIDDEN, num_beams=2)
    regions = output.gaze.regions
    assert all(not denied[regions[row][regions[row] >= 0]].any() for row, denied in enumerate(HIDDEN))


@pytest.mark.parametrize(
    ("hidden", "gaze", "message"),
    [
        (torch.ones(2, 16, dtype=torch.bool), {"top_k": 2}, "leaves a row no region"),
        (torch.zeros(2, 17, dtype=torch.bool), {"top_k": 2}, r"bool \[2, up to 16\], got torch.bool \[2, 17\]"),
        (torch.zeros(2, 16), {"top_k": 2}, "got torch.float32"),
        (HIDDEN, {"keep_ratio": 1.0}, "layers that do not route"),
        (HIDDEN, {"top_k": 2, "dense_layers": (1,)}, r"do not route \(1\)"),
    ],
)
def test_what_cannot_be_hidden_is_refused(tiny, inputs, hidden, gaze: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny[0](**inputs, gaze=gaze, hidden_regions=hidden)
