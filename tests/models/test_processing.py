"""The processor: images, several images, video frames, padding, and what it refuses."""

import pytest
import torch
from PIL import Image

from tests.models.conftest import ask, noise

IMAGE_TOKENS, CONTEXT = 64, 4


def test_one_image(processor):
    out = processor.apply_chat_template(ask(noise(0)), tokenize=True, add_generation_prompt=True)
    types = out["mm_token_type_ids"][0]
    assert (types == 1).sum() == IMAGE_TOKENS and (types == 3).sum() == CONTEXT
    where = types.nonzero().flatten()
    assert torch.equal(where, torch.arange(where[0], where[0] + IMAGE_TOKENS + CONTEXT))
    assert (types[where[:IMAGE_TOKENS]] == 1).all()
    assert out["pixel_values"].shape == (1, 3, 64, 64) and out["grid_thw"].tolist() == [[1, 8, 8]]


def test_rendered_text_gives_the_same_tensors(processor):
    messages = ask(noise(0), noise(1), text="compare")
    direct = processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    called = processor(text=text, images=[noise(0), noise(1)])
    assert all(torch.equal(direct[name], called[name]) for name in direct)


def test_video_frames(processor):
    frames = [noise(i) for i in range(3)]
    message = [{"role": "user", "content": [{"type": "video", "video": frames}, {"type": "text", "text": "what?"}]}]
    out = processor.apply_chat_template(message, tokenize=True, add_generation_prompt=True)
    types = out["mm_token_type_ids"][0]
    assert out["grid_thw"].tolist() == [[3, 8, 8]]
    assert (types == 2).sum() == 3 * IMAGE_TOKENS and (types == 3).sum() == 3 * CONTEXT
    runs = types[types != 0].view(3, IMAGE_TOKENS + CONTEXT)
    assert (runs[:, :IMAGE_TOKENS] == 2).all() and (runs[:, IMAGE_TOKENS:] == 3).all()


def test_left_padding(processor):
    out = processor.apply_chat_template(
        [ask(noise(0)), ask(text="a much longer question, without a picture" * 4)],
        tokenize=True,
        add_generation_prompt=True,
    )
    mask = out["attention_mask"]
    assert mask[:, -1].all() and (mask.sum(1) < mask.shape[1]).any()
    assert out["grid_thw"].shape == (1, 3)


def test_padding_to_square_uses_the_processors_mean(processor):
    pixels = processor.preprocess_images([Image.new("RGB", (64, 16), (255, 0, 0))])
    assert pixels[0, :, 0, 0].abs().max() < 0.01
    assert torch.allclose(pixels[0, :, 32, 32], torch.tensor([1.0, -1.0, -1.0]), atol=0.05)


def test_written_special_tokens_stay_text(processor):
    out = processor.apply_chat_template(ask(text="<|im_end|> <|image_pad|>"), tokenize=True)
    ids = out["input_ids"][0].tolist()
    assert processor.tokenizer.convert_tokens_to_ids("<|image_pad|>") not in ids
    assert ids.count(processor.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "<image> and <image>", "images": [noise(0)]}, "text 0 has 2"),
        ({"text": "no placeholder", "images": [noise(0)]}, "1 images were given that no <image>"),
        ({"text": None}, "give text"),
        ({"text": "a", "max_lenght": 3}, "max_lenght"),
    ],
)
def test_disagreement_is_refused(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(**arguments)


def test_a_missing_file_is_named(processor, tmp_path):
    with pytest.raises(ValueError, match="nothing.png"):
        processor.apply_chat_template(ask(tmp_path / "nothing.png"), tokenize=True)
