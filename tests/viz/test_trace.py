"""Geometry and counts of a trace, and its making from what `generate` returned."""

from dataclasses import replace

import numpy as np
import pytest

from cambrian_gaze.viz.trace import ALL, NONE, Trace
from cambrian_gaze.viz.trace_record import Asked, _chosen, model_facts, token_texts, trace_of
from tests.viz._traces import make_trace, noise, with_weights

SHAPES = [(48, 48), (90, 40), (40, 90), (101, 67), (31, 77)]


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("aspect", ["pad", "square"])
@pytest.mark.parametrize(("grid", "region"), [((6, 6), (2, 2)), ((5, 7), (2, 3))])
def test_regions_cover_each_pixel_of_the_own_picture_once(size, aspect, grid, region) -> None:
    trace = make_trace([[noise(*size)]], grid=grid, region=region, aspect=aspect)
    cover = np.zeros(size[::-1], dtype=int)
    for x0, y0, x1, y1 in trace.pixels:
        cover[y0:y1, x0:x1] += 1
    assert (cover == 1).all()


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_a_region_is_where_the_model_saw_it(size, aspect) -> None:
    """Paint each region in the model's own square and undo what made it square: the same place, to a pixel."""
    from cambrian_gaze.data.media.aspect import pad_to_square

    trace = make_trace([[noise(*size)]], aspect=aspect)
    width, height = size
    for box, (x0, y0, x1, y1) in zip(trace.boxes, trace.pixels, strict=True):
        square = np.zeros((600, 600), dtype=bool)
        top, left, bottom, right = (int(edge) * 100 for edge in box[3:])
        square[top:bottom, left:right] = True
        if aspect == "pad":
            side = max(size)
            mark = noise(width, height).point(lambda _: 255)
            inside = np.asarray(pad_to_square(mark, (0, 0, 0)))[..., 0] > 0
            rows, columns = np.where(inside.any(1))[0], np.where(inside.any(0))[0]
        else:
            side, rows, columns = 0, np.arange(height), np.arange(width)
        y = ((rows + 0.5) * 600 / (side or height)).astype(int)
        x = ((columns + 0.5) * 600 / (side or width)).astype(int)
        seen = square[np.ix_(y, x)]
        drawn = np.zeros((height, width), dtype=bool)
        drawn[y0:y1, x0:x1] = True
        border = np.zeros_like(drawn)
        for edge in (y0, y1):
            border[max(0, edge - 1) : edge + 1] = True
        for edge in (x0, x1):
            border[:, max(0, edge - 1) : edge + 1] = True
        assert (seen == drawn)[~border].all()


def test_regions_of_padding_alone_are_empty() -> None:
    trace = make_trace([[noise(90, 20)]], aspect="pad")
    empty = [r for r, place in enumerate(trace.pixels) if place == (0, 0, 0, 0)]
    assert empty == [0, 1, 2, 6, 7, 8]


def test_frames_of_a_video_have_their_own_regions() -> None:
    trace = make_trace([[noise(60, 40)], [noise(64, 48, seed) for seed in range(3)]])
    assert trace.units == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert [len(trace.regions_of(*unit)) for unit in trace.units] == [9] * 4
    assert sorted(r for unit in trace.units for r in trace.regions_of(*unit)) == list(range(36))
    for unit in trace.units:
        places = [trace.pixels[r] for r in trace.regions_of(*unit)]
        width, height = trace.items[unit[0]].size
        assert sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in places) == width * height


def test_shares_count_the_heads_that_chose() -> None:
    chosen = np.array([[[[0, 3], [3, 1]], [[ALL, NONE], [3, NONE]]]])
    trace = make_trace(tokens=["x"], chosen=chosen)
    assert trace.share(0)[:4].tolist() == [1 / 3, 1 / 3, 0, 1]
    assert trace.share(0, [0])[:4].tolist() == [0.5, 0.5, 0, 1]
    assert trace.share(0, [1], [0]).sum() == 0
    assert trace.chose.tolist() == [[[True, True], [False, True]]]
    for arguments, said in (((1,), "token 1"), ((0, [2]), "layer 2"), ((0, None, [-1]), "head -1")):
        with pytest.raises(ValueError, match=said):
            trace.share(*arguments)


def test_dense_heads_are_marked_and_take_no_room() -> None:
    regions = np.array([[[[0, 1, 2, 3], [2, 0, -1, -1]]]])
    inside = np.array([[[[0.1, 0.2, 0.3, 0.1], [0.4, 0.2, 0.0, 0.0]]]])
    chosen, mass = _chosen(regions, inside, 4)
    assert chosen.tolist() == [[[[ALL, NONE], [2, 0]]]]
    np.testing.assert_allclose(mass, [[[[0.7, 0], [0.4, 0.2]]]])
    assert _chosen(np.zeros((1, 1, 1, 0), dtype=np.int64), None, 0)[0].tolist() == [[[[NONE]]]]


def test_tokens_within_a_character_wait_for_its_last() -> None:
    data = "aé🙂b".encode()
    texts = token_texts(lambda ids: bytes(ids).decode(errors="replace"), list(data))
    assert texts == ["a", "", "é", "", "", "", "🙂", "b"]
    broken = token_texts(lambda ids: bytes(ids).decode(errors="replace"), [97, 0xF0, 0x9F])
    assert broken[0] == "a" and broken[1] == "" and "\ufffd" in broken[2]


def test_heat_is_the_mean_of_what_the_heads_attended_to() -> None:
    trace = with_weights(make_trace(layers=3))
    np.testing.assert_allclose(trace.heat(1), trace.attention[1].astype(float).mean(0))
    np.testing.assert_allclose(trace.heat(1, [2]), trace.attention[1, 2], rtol=1e-6)
    np.testing.assert_allclose(trace.heat(1).sum(), trace.role_mass[1, :, 0].mean(), rtol=1e-2)
    np.testing.assert_array_equal(trace.mass(1, 2, 0), trace.region_mass[1, 2, 0])
    assert trace.heat(0).dtype == trace.mass(0, 0, 0).dtype == np.float64
    trace.attention = trace.attention.mean(1, keepdims=True)  # As a long video's trace has it
    assert trace.heat(1).shape == (36,) and trace.heat(1, [0]) is None
    bare = make_trace()
    assert bare.heat(0) is None and bare.mass(0, 0, 0) is None
    for ask, said in (
        (lambda: trace.heat(6), "token 6: the trace has tokens 0 to 5"),
        (lambda: bare.heat(0, [2]), "layer 2: the trace has layers 0 to 1"),
        (lambda: trace.mass(0, 0, 3), "head 3: the trace has heads 0 to 2"),
    ):
        with pytest.raises(ValueError, match=said):
            ask()


def check_weights(trace: Trace, gaze) -> None:
    """The trace has what was measured, to the precision of float16."""
    steps, close = len(trace.tokens), {"atol": 1e-6, "rtol": 1e-3}
    weights = gaze.weights
    np.testing.assert_allclose(trace.attention, weights.visual[0, :steps], **close)
    np.testing.assert_allclose(trace.role_mass, weights.by_role[0, :steps].mean(2), **close)
    np.testing.assert_allclose(trace.role_mass.astype(float).sum(-1), 1, rtol=2e-3)
    for place in np.ndindex(trace.regions.shape[:3]):
        told = dict(zip(gaze.regions[0][place].tolist(), weights.inside[0][place].tolist(), strict=True))
        for region, mass in zip(trace.regions[place].tolist(), trace.mass(*place), strict=True):
            want = sum(told.values()) if region == ALL else told[region] if region >= 0 else 0
            assert mass == pytest.approx(want, abs=1e-3)
    assert "attention" not in trace.missing and "scores" in trace.missing


def test_a_trace_agrees_with_what_generate_returned() -> None:
    import torch

    from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor

    torch.manual_seed(0)
    model, processor = (
        kind.from_preset("tiny") for kind in (CambrianGazeForConditionalGeneration, CambrianGazeProcessor)
    )
    picture = noise(90, 40)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True
    )
    length = inputs["input_ids"].shape[1]
    options = {"return_gaze": "weights", "max_new_tokens": 6, "output_logits": True, "gaze": {"top_k": 2}}
    nowhere = model_facts("nowhere")
    asked = Asked("What?", length, [picture], gaze={"top_k": 2})
    for beams in (1, 3):
        output = model.generate(**inputs, **options, num_beams=beams)
        trace = trace_of(output, model, processor, asked, facts=nowhere)
        steps = len(trace.tokens)
        assert trace.regions.shape[0] == steps == len(trace.logprobs)
        kept = output.gaze.regions[0, :steps].sort(-1).values.tolist()
        assert np.sort(trace.regions, axis=-1).tolist() == kept
        assert trace.attended[..., 0].tolist() == output.gaze.attended_visual[0, :steps].tolist()
        check_weights(trace, output.gaze)
        # The probability of each token, from one call over the whole answer.
        whole = dict(inputs) | {"input_ids": output.sequences[:, : length + steps]}
        whole["attention_mask"] = torch.ones_like(whole["input_ids"])
        whole["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, steps))
        logits = model(**whole, gaze={"top_k": 2}).logits[0, length - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, whole["input_ids"][0, length:, None])[:, 0]
        np.testing.assert_allclose(trace.logprobs, expected.detach().numpy(), atol=1e-4)
        assert (np.diff(trace.top_logprobs, axis=1) <= 0).all()
    assert trace.pixels == [
        tuple(place) for _, _, _, *place in output.gaze.region_pixels(0, [picture.size], processor.image_aspect_ratio)
    ]
    assert trace.model == {"name": "nowhere", "weights": None} and trace.gaze["image"]["top_k"] == 2
    bare = model.generate(**inputs, return_gaze=True, max_new_tokens=2)
    assert "output_logits" in trace_of(bare, model, processor, asked).missing["logprobs"]
    assert trace_of(bare, model, processor, asked).heat(0) is None
    dense = model.generate(**inputs, return_gaze="weights", max_new_tokens=2, gaze={"keep_ratio": 1.0})
    told = trace_of(dense, model, processor, asked)
    check_weights(told, dense.gaze)
    assert (told.heat(0) > 0).all() and (told.regions.shape == told.region_mass.shape)
    assert (told.regions[..., 0] == ALL).all() and "nothing was chosen" in told.missing["regions"]
    with pytest.raises(ValueError, match="1 images or videos, but 0"):
        trace_of(bare, model, processor, replace(asked, pictures=[]))


def test_a_model_without_a_folder_has_no_digest(tmp_path, monkeypatch) -> None:
    """Least of all that of a trace that lies in the working folder."""
    monkeypatch.chdir(tmp_path)
    make_trace().save("gaze.safetensors")
    assert model_facts("") == {"name": None, "weights": None}
    assert model_facts("some/model")["weights"] is None
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    assert model_facts("empty") == {"name": "empty", "weights": None}


def test_weights_are_read_once_while_they_stay_as_they_are(tmp_path, monkeypatch):
    from safetensors.numpy import save_file

    from cambrian_gaze.models.folders import lineage

    (tmp_path / "config.json").write_text("{}")
    save_file({"a": np.zeros(3)}, tmp_path / "model.safetensors")
    read = []
    original = lineage.weights_digest
    monkeypatch.setattr(lineage, "weights_digest", lambda folder: read.append(folder) or original(folder))
    first, again = (model_facts(str(tmp_path))["weights"] for _ in range(2))
    assert first == again == original(tmp_path) and len(read) == 1
    save_file({"a": np.ones(4)}, tmp_path / "model.safetensors")
    assert model_facts(str(tmp_path))["weights"] == original(tmp_path) != first and len(read) == 2
