"""Upstream checkpoints, there and back: the same numbers on the dense path, the same bytes on the way home."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SiglipModel

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.models.conversion.cambrian import Choices
from cambrian_gaze.models.conversion.from_cambrian import from_cambrian, read_adapter
from cambrian_gaze.models.conversion.initialise import initialise
from cambrian_gaze.models.conversion.shards import Shards
from cambrian_gaze.models.conversion.to_cambrian import to_cambrian
from cambrian_gaze.models.presets import QWEN2_5_7B
from tests.models._checkpoints import (
    Evil,
    Upstream,
    change_config,
    convert,
    qwen_shapes,
    siglip_shapes,
    write_language_model,
    write_siglip,
    write_sparse,
    write_tokenizer,
    write_upstream,
    write_weights,
)

DROP = Choices(image_newline="drop")
LLAVA = {
    "tower_prefix": "model.vision_tower.vision_tower.vision_model.",
    "model_type": "llava_qwen",
    "mm_vision_tower": "small/siglip",
    "mm_vision_tower_aux_list": None,
}


def contents(folder: Path) -> dict[str, tuple]:
    """Type, shape and bytes of every tensor."""
    shards = Shards(folder)
    tensors = {name: shards.tensor(name) for name in shards}
    return {name: (t.dtype, tuple(t.shape), t.view(torch.uint8).numpy().tobytes()) for name, t in tensors.items()}


def compare_dense(upstream: Upstream, folder: Path, layer: int | None) -> None:
    """Logits of the text after an image, of our model and of the hand-spliced one."""
    model = CambrianGazeForConditionalGeneration.from_pretrained(folder).eval()
    processor = CambrianGazeProcessor.from_pretrained(folder)
    assert model.config.gaze_config.is_dense and model.model.gaze.context_tokens is None
    image = model.config.image_token_id
    side, (h, w) = model.config.vision_config.image_size, model.config.grid
    assert processor.grid_hw == (h, w)
    pixels = torch.randn(1, 3, side, side)
    ids = torch.tensor([5, 17, image, 33, 7, 250])
    expanded = torch.cat([ids[:2], ids[2].repeat(h * w), ids[3:]])[None]
    types = (expanded == image).long()
    with torch.no_grad():
        own = model(
            input_ids=expanded, pixel_values=pixels, grid_thw=torch.tensor([[1, h, w]]), mm_token_type_ids=types
        ).logits[0]
    reference = upstream(ids, pixels, image, layer)
    assert own.shape == reference.shape
    torch.testing.assert_close(own, reference, rtol=0, atol=1e-5)
    # The picture matters, and so does the layer that it is read from.
    other = upstream(ids, torch.randn(1, 3, side, side), image, layer)
    assert (other - reference)[-1].abs().max() > 1e-3
    assert (upstream(ids, pixels, image, None if layer else -2) - reference)[-1].abs().max() > 1e-3


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"as_bin": True},
        {"kept_layers": 3},
        LLAVA,
        {"tower_prefix": None},
    ],
    ids=["cambrian-s", "bin", "whole tower", "llava", "frozen tower"],
)
def test_there_and_back(layout: dict, siglip: str, tmp_path: Path) -> None:
    upstream = write_upstream(tmp_path / "up", **layout)
    report = convert(tmp_path, siglip)
    assert (report.missing, report.unexpected, report.mismatched, report.new) == ([], [], [], {})
    ignored = {name.removeprefix("upstream: ") for name in report.ignored if name.startswith("upstream: ")}
    read = {source.name for source in report.loaded.values() if source.part.title == "upstream"}
    assert ignored | read == set(Shards(tmp_path / "up"))
    if "tower_prefix" in layout and layout["tower_prefix"] is None:
        upstream.tower = SiglipModel.from_pretrained(siglip).vision_model.eval()
    compare_dense(upstream, tmp_path / "model", -2)

    back = to_cambrian(tmp_path / "model", tmp_path / "back", max_shard_size=20_000, progress=False)
    assert contents(tmp_path / "back") == contents(tmp_path / "up")
    assert sorted(back.loaded) == sorted(Shards(tmp_path / "up"))
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("up", "back")]
    assert configs[0] == configs[1]


def test_27_by_27_tokens(tmp_path: Path) -> None:
    """384 px and patch 14 do not divide: 27 patches a side, as with 55 px and patch 2."""
    sizes = {"image_size": 55, "patch_size": 2}
    write_siglip(tmp_path / "siglip", **sizes)
    lengths = {"si_token_len": 729, "miv_token_len": 729}
    upstream = write_upstream(tmp_path / "up", vision=sizes, **lengths)
    report = convert(tmp_path, str(tmp_path / "siglip"))
    assert "27×27 tokens" in report.notes[-1]
    compare_dense(upstream, tmp_path / "model", -2)


def test_the_tower_of_open_clip_is_read_after_its_norm(siglip: str, tmp_path: Path) -> None:
    names = {"mm_vision_tower_aux_list": ["siglip/CLIP-ViT-SO400M-14-384"], "mm_vision_select_layer": -2}
    upstream = write_upstream(tmp_path / "up", tower_prefix=None, **names)
    convert(tmp_path, siglip)
    upstream.tower = SiglipModel.from_pretrained(siglip).vision_model.eval()
    compare_dense(upstream, tmp_path / "model", None)


def test_full_precision_of_storage_is_kept(siglip: str, tmp_path: Path) -> None:
    write_upstream(tmp_path / "up", torch_dtype="bfloat16")
    stored = Shards(tmp_path / "up")
    write_weights(tmp_path / "up", {name: stored.tensor(name).bfloat16() for name in stored})
    convert(tmp_path, siglip)
    assert {entry.dtype for entry in Shards(tmp_path / "model").entries.values()} == {torch.bfloat16}
    loaded = CambrianGazeForConditionalGeneration.from_pretrained(tmp_path / "model", dtype="auto")
    assert loaded.dtype == torch.bfloat16
    to_cambrian(tmp_path / "model", tmp_path / "back", progress=False)
    assert contents(tmp_path / "back") == contents(tmp_path / "up")


@pytest.mark.parametrize(
    ("config", "choice", "said", "noted"),
    [
        ({"mm_use_im_newline_token": None}, {"image_newline": "drop"}, "each of the 4 rows", "newline is dropped"),
        ({"image_aspect_ratio": "anyres"}, {"anyres": "base"}, "tiles beside a base view", "only the base view"),
        ({"miv_token_len": 4}, {"pooling": "native"}, r"miv_token_len 4; the tower gives 4×4", "all 16 tokens"),
    ],
)
def test_what_has_no_place_here_needs_a_choice(
    config: dict, choice: dict, said: str, noted: str, siglip: str, tmp_path: Path
) -> None:
    write_upstream(tmp_path / "up", **config)
    with pytest.raises(ValueError, match=said) as refusal:
        convert(tmp_path, siglip)
    assert f"--{next(iter(choice))} {next(iter(choice.values()))}" in str(refusal.value)
    report = convert(tmp_path, siglip, Choices(**choice))
    assert any(noted in note for note in report.notes)
    to_cambrian(tmp_path / "model", tmp_path / "back", progress=False)
    assert contents(tmp_path / "back") == contents(tmp_path / "up")


def test_a_model_of_our_own_goes_to_cambrian(tmp_path: Path) -> None:
    language_model = write_language_model(tmp_path / "llm", "qwen2")
    write_siglip(tmp_path / "siglip")
    overrides = {"gaze": {"num_context_tokens": 2}}
    initialise(tmp_path / "model", str(tmp_path / "llm"), str(tmp_path / "siglip"), overrides=overrides, progress=False)
    with pytest.raises(ValueError, match="context_tokens has no place .* --drop_context_tokens"):
        to_cambrian(tmp_path / "model", tmp_path / "up", tower="small/siglip")
    with pytest.raises(ValueError, match="--tower"):
        to_cambrian(tmp_path / "model", tmp_path / "up", drop_context_tokens=True)
    assert not (tmp_path / "up").exists()
    report = to_cambrian(
        tmp_path / "model", tmp_path / "up", drop_context_tokens=True, tower="small/siglip", progress=False
    )
    assert list(report.ignored) == ["model.gaze.context_tokens"]
    shards = Shards(tmp_path / "up")
    assert torch.equal(shards.tensor("model.embed_tokens.weight"), language_model.get_input_embeddings().weight)
    config = json.loads((tmp_path / "up" / "config.json").read_text())
    assert (config["model_type"], config["mm_projector_type"]) == ("cambrian_qwen", "mlp2x_gelu")
    assert config["mm_use_im_newline_token"] is False
    # Read back as upstream would be, and compared with the model that it came from.
    change_config(mm_vision_select_layer=-1)(tmp_path / "up")
    from_cambrian(tmp_path / "up", tmp_path / "again", vision=str(tmp_path / "siglip"), progress=False)
    own, again = contents(tmp_path / "model"), contents(tmp_path / "again")
    del own["model.gaze.context_tokens"]
    assert own == again


def test_the_published_cambrian_s_fits_to_the_last_key(tmp_path: Path) -> None:
    """Names and shapes of Cambrian-S-7B-LFP: 26 tower layers of 27, no pooling head, 8,047,327,392 parameters."""
    shapes = qwen_shapes(QWEN2_5_7B, biased=True)
    for name, shape in siglip_shapes().items():
        part = name.split(".")
        if part[0] == "vision_model" and part[1] != "head" and part[1:4] != ["encoder", "layers", "26"]:
            shapes[f"model.vision_tower_aux_list.0.vision_tower.{name}"] = shape
    tower = "model.vision_tower_aux_list.0.vision_tower.vision_model.embeddings."
    shapes |= {f"{tower}patch_embedding.weight": (1152, 3, 14, 14), f"{tower}position_embedding.weight": (729, 1152)}
    for name, sizes in (("mm_projector", (1152, 3584, 3584)), ("nfp_head", (3584, 3584, 1152))):
        for number, inner, outer in ((0, *sizes[:2]), (2, *sizes[1:])):
            shapes |= {f"model.{name}.{number}.weight": (outer, inner), f"model.{name}.{number}.bias": (outer,)}
    shapes["model.image_newline"] = (3584,)
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 8_047_327_392
    write_sparse(tmp_path / "up", shapes, 1)
    config = {**QWEN2_5_7B, "model_type": "cambrian_qwen", "mm_projector_type": "mlp2x_gelu"}
    config |= {"mm_vision_tower_aux_list": ["google/siglip2-so400m-patch14-384"], "si_token_len": 729}
    (tmp_path / "up" / "config.json").write_text(json.dumps(config))
    write_tokenizer(tmp_path / "up")
    report = from_cambrian(tmp_path / "up", tmp_path / "model", DROP, dry_run=True)
    report.check()
    assert len(report.loaded) == len(shapes) - 5 and not report.new
    assert "after layer 26, before the last norm: 27×27 tokens" in report.notes[-1]


@pytest.mark.parametrize("prefix", ["", "_orig_module."])
def test_a_projector_by_itself(prefix: str, tmp_path: Path) -> None:
    upstream = write_upstream(tmp_path / "up")
    tensors = {f"{prefix}model.mm_projector.{n}": t.detach() for n, t in upstream.projector.state_dict().items()}
    tensors[f"{prefix}model.image_newline"] = upstream.newline.detach()
    path = tmp_path / "mm_projector.bin"
    torch.save({"model": tensors} if prefix else tensors, path)
    with pytest.raises(ValueError, match="--image_newline drop"):
        read_adapter(path, Choices())
    found, notes = read_adapter(path, DROP)
    assert len(found) == 4 and notes == ["model.image_newline is dropped"]
    assert torch.equal(found["model.mm_projector.2.bias"], upstream.projector[2].bias)
    torch.save({**tensors, "model.vision_query": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="spatial vision aggregator"):
        read_adapter(path, DROP)
    torch.save({"model.mm_projector.0.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match="missing or unexpected: model.mm_projector.0.bias"):
        read_adapter(path, DROP)
    path.write_bytes(pickle.dumps({"w": Evil(tmp_path / "pwned")}, protocol=2))
    with pytest.raises(ValueError, match="is refused"):
        read_adapter(path, DROP)
    assert not (tmp_path / "pwned").exists()


def test_a_dry_run_writes_nothing(siglip: str, tmp_path: Path) -> None:
    write_upstream(tmp_path / "up")
    report = convert(tmp_path, siglip, dry_run=True)
    assert not (report.missing or report.unexpected or report.mismatched)
    assert not (tmp_path / "model").exists()
    convert(tmp_path, siglip)
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        convert(tmp_path, siglip)
    to_cambrian(tmp_path / "model", tmp_path / "back", dry_run=True)
    assert not (tmp_path / "back").exists()
    file = tmp_path / "model" / "model.safetensors"
    save_file({name: t for name, t in load_file(file).items() if name != "lm_head.weight"}, file)
    with pytest.raises(ValueError, match="lm_head.weight"):
        to_cambrian(tmp_path / "model", tmp_path / "back")
