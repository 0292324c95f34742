"""Presets have the published sizes: counted from shapes on the meta device, compared with sums made by hand."""

import pytest
import torch

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.gaze.cost import attended_visual


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def siglip_so400m_16() -> int:
    """Patches, 576 positions, 27 blocks of attention and MLP with two norms, one norm after; no pooling head."""
    width, mlp = 1152, 4304
    block = 4 * (width * width + width) + 2 * width * mlp + mlp + width + 4 * width
    return 3 * 16 * 16 * width + width + 576 * width + 27 * block + 2 * width


def projector(width: int) -> int:
    return 1152 * width + width + width * width + width


# Published: Qwen3-4B 4.02 B parameters (tied), Qwen2.5-7B 7.62 B (7,615,616,512, untied).
PUBLISHED = {"4b": (4_022_468_096, 2560, 36, 32, 8), "7b": (7_615_616_512, 3584, 28, 28, 4)}


@pytest.mark.parametrize("name", ["4b", "7b"])
def test_published_sizes(name):
    with torch.device("meta"):
        model = CambrianGazeForConditionalGeneration.from_preset(name)
    assert all(p.is_meta for p in model.parameters())
    llm, width, layers, heads, kv_heads = PUBLISHED[name]
    head = 0 if name == "4b" else count(model.lm_head)
    assert count(model.model.language_model) + head == llm
    assert count(model.model.vision_tower) == siglip_so400m_16()
    assert count(model.model.mm_projector) == projector(width)
    assert count(model) == llm + siglip_so400m_16() + projector(width) + 4 * width
    text = model.config.text_config
    assert (text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads) == (layers, heads, kv_heads)
    attention = model.model.language_model.layers[0].self_attn
    assert attention.q_proj.weight.shape == (heads * 128, width)
    assert attention.k_proj.weight.shape == (kv_heads * 128, width)
    assert model.config.grid == (24, 24)
    assert model.model.vision_tower.embeddings.patch_embedding.weight.shape == (1152, 3, 16, 16)


@pytest.mark.parametrize("name", ["4b-512", "7b-512"])
def test_512_px(name):
    """32×32 tokens in 16 regions of 8×8, K=2: 128 + 4 of 1,024 (authors' page)."""
    with torch.device("meta"):
        model = CambrianGazeForConditionalGeneration.from_preset(name)
        features = model.model.get_image_features(torch.empty(1, 3, 512, 512))
    assert model.config.grid == (32, 32) and features.shape == (1, 1024, PUBLISHED[name[:2]][1])
    kv = attended_visual([(1, 32, 32)], model.config.gaze_config)
    assert (kv.selected, kv.context, kv.of, kv.regions, kv.kept) == (128, 4, 1024, 16, 2)
    assert count(model) == count_of(name[:2]) + (32**2 - 24**2) * 1152, "its position embeddings alone are larger"


def count_of(name):
    with torch.device("meta"):
        return count(CambrianGazeForConditionalGeneration.from_preset(name))


@pytest.mark.parametrize("name", ["4b", "7b"])
def test_a_forward_pass_on_meta_has_the_right_shapes(name):
    """The whole path at full size, without memory: 576 + 4 tokens of an image and its question."""
    with torch.device("meta"):
        model = CambrianGazeForConditionalGeneration.from_preset(name)
        features = model.model.get_image_features(torch.empty(1, 3, 384, 384))
    assert features.shape == (1, 576, PUBLISHED[name][1])


def test_compression_quarters_the_tokens():
    with torch.device("meta"):
        model = CambrianGazeForConditionalGeneration.from_preset("4b", mm_projector_type="conv3x3_mlp2x_gelu")
        assert model.model.get_image_features(torch.empty(2, 3, 384, 384)).shape == (2, 144, 2560)
    assert count(model.model.mm_projector) == projector(2560) + 9 * 1152 * 1152 + 1152


def test_tiny_ships_its_tokenizer():
    processor = CambrianGazeProcessor.from_preset("tiny")
    assert processor.decode(processor.tokenizer("read B3, é").input_ids) == "read B3, é"
    model = CambrianGazeForConditionalGeneration.from_preset("tiny")
    assert model.config.text_config.vocab_size >= len(processor.tokenizer)


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean '4b'"):
        CambrianGazeForConditionalGeneration.from_preset("4bb")
