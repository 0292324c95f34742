"""Compression before the decoder: what the decoder is given, against loops; what is left out is never seen."""

import dataclasses

import pytest
import torch

from cambrian_gaze.baselines.registry import make_policy
from tests.baselines._policies import encode, make_model, make_processor
from tests.baselines.test_generate import answer

POOLS = ("avgpool2", "maxpool2", "downsample")


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.mark.parametrize("name", POOLS)
def test_blocks_become_one_token_at_the_place_of_their_last(name: str) -> None:
    features = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    found = make_policy(name).on_features(features)
    for n in range(2):
        for row in range(4):
            for column in range(6):
                block = features[n, row - 1 : row + 1, column - 1 : column + 1].reshape(-1, 5)
                if row % 2 and column % 2:
                    expected = block.amax(0) if name == "maxpool2" else block.sum(0) / 4
                    torch.testing.assert_close(found[n, row, column], expected)
                else:
                    assert torch.equal(found[n, row, column], features[n, row, column])


def test_a_smaller_picture_has_lost_what_is_finer() -> None:
    pixels = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    small = make_policy("downsample").on_pixels(pixels)
    assert small.shape == pixels.shape
    fine = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).expand(1, 3, 8, 8)
    torch.testing.assert_close(make_policy("downsample").on_pixels(pixels + fine), small)
    assert make_policy("avgpool2").on_pixels(pixels) is pixels


@pytest.mark.parametrize("name", POOLS)
def test_tokens_that_are_left_out_are_never_seen(model, processor, name: str) -> None:
    """Whatever they hold, the answer is the same; what the others hold changes it."""
    policy = make_policy(name)
    inputs = encode(processor, (0, 1, "read B3"))
    expected = answer(model, inputs, policy=policy)

    def with_noise_at(left_out: bool):
        g = torch.Generator().manual_seed(5)

        def on_features(self, features):
            changed = type(policy).on_features(self, features)
            kept = torch.zeros(features.shape[1:3], dtype=torch.bool)
            kept[1::2, 1::2] = True
            return torch.where((kept ^ left_out)[..., None], torch.randn(features.shape, generator=g), changed)

        return type("Noisy", (type(policy),), {"on_features": on_features})()

    for left_out in (True, False):
        found = answer(model, inputs, policy=with_noise_at(left_out))
        same = all(torch.equal(a, b) for a, b in zip(found.logits, expected.logits, strict=True))
        assert same == left_out


@pytest.mark.parametrize("name", ["avgpool2", "maxpool2"])
def test_pooling_is_the_compressing_projector_but_for_positions(model, processor, name: str) -> None:
    """A model of that projector, with the positions that its tokens would have had, says the same."""
    from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor

    gaze = {"num_context_tokens": 0, "image": {"region_size": [1, 1, 1], "keep_ratio": 1.0}}
    options = {"gaze": gaze, "mm_projector_type": f"{name}_mlp2x_gelu", "mm_conv_position": "after_mlp"}
    small = CambrianGazeForConditionalGeneration.from_preset("tiny", **options).eval()
    small.load_state_dict(model.state_dict())
    other = CambrianGazeProcessor.from_preset("tiny", **options)
    inputs, fewer = encode(processor, (0, "read B3")), encode(other, (0, "read B3"))
    visual = (inputs["mm_token_type_ids"][0] > 0).nonzero().flatten()
    places = torch.arange(inputs["input_ids"].shape[1])
    kept = [p for p in places.tolist() if p not in set(visual.tolist())]
    blocks = visual.view(8, 8)[1::2, 1::2].flatten().tolist()
    positions = torch.tensor(sorted([*kept, *blocks]))[None]
    with torch.no_grad():
        expected = small(**fewer, position_ids=positions).logits[:, -1]
    output = answer(model, inputs, policy=make_policy(name))
    torch.testing.assert_close(output.logits[0], expected, atol=1e-4, rtol=1e-4)


def test_frames_that_are_left_out_are_never_seen(model, processor) -> None:
    inputs = encode(processor, (0, 1, 2, "read B3"))
    policy = make_policy("subsample", {"every": 2})
    expected = answer(model, inputs, policy=policy)
    assert (expected.retained == 128).all() and (expected.gaze.attended_visual == 128).all()
    for number, same in ((1, True), (2, False)):
        other = encode(processor, *[tuple(7 if part == number else part for part in (0, 1, 2, "read B3"))])
        found = answer(model, other, policy=policy)
        assert all(torch.equal(a, b) for a, b in zip(found.logits, expected.logits, strict=True)) == same
    whole = answer(model, inputs, policy=make_policy("subsample", {"every": 1}))
    torch.testing.assert_close(whole.logits[0], answer(model, inputs).logits[0], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", POOLS)
def test_gaze_chooses_among_pooled_tokens(model, processor, name: str) -> None:
    inputs = encode(processor, (0, "read B3"))
    output = answer(model, inputs, policy=make_policy(name), gaze={"top_k": 2})
    assert (output.retained == 16).all()
    assert (output.gaze.attended_visual == 2).all()  # a region of 2×2 tokens is one now


def test_odd_grids_are_refused() -> None:
    from types import SimpleNamespace

    odd = SimpleNamespace(config=SimpleNamespace(grid=(27, 27)))
    with pytest.raises(ValueError, match="27x27"):
        make_policy("avgpool2").on_input(odd, {})
    with pytest.raises(ValueError, match="every must be an integer"):
        make_policy("subsample", {"every": 0})
    assert dataclasses.asdict(make_policy("avgpool2")) == {"grid": None}
