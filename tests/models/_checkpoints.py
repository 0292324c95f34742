"""Small checkpoints in the layouts in which the large ones are published, and large ones without content."""

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from cambrian_gaze.models.conversion.cambrian import Choices
from cambrian_gaze.models.conversion.from_cambrian import from_cambrian
from cambrian_gaze.models.conversion.initialise import initialise
from cambrian_gaze.models.presets import load_tokenizer

SMALL = {
    "vocab_size": 576,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 3,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
GAZE = {"gaze": {"image": {"region_size": [1, 2, 2], "top_k": 2}}}
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"


def randomise(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Every parameter drawn, biases and norms too: one that is not copied shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + (parameter.dim() == 1) * 0.5)
    return model.eval()


def write_tokenizer(folder: Path, without: tuple[str, ...] = ()) -> None:
    """The tiny tokenizer with a chat template of its own; `without` some special tokens."""
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in without]
    file.write_text(json.dumps(content))


def write_language_model(folder: Path, kind: str = "qwen3", without: tuple[str, ...] = (), **changes: Any):
    """Qwen3 with tied embeddings (as Qwen3-4B) or Qwen2 with biases and a head (as Qwen2.5-7B), in several shards."""
    if kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**{**SMALL, "head_dim": 8, "tie_word_embeddings": True, **changes}))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**{**SMALL, "tie_word_embeddings": False, **changes}))
    randomise(model).save_pretrained(folder, max_shard_size="30KB")
    write_tokenizer(folder, without)
    return model


def write_siglip(folder: Path, **changes: Any) -> SiglipModel:
    """A `SiglipModel` with its text tower, as SigLIP2 is published."""
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2}
    model = randomise(SiglipModel(SiglipConfig(vision_config={**VISION, **changes}, text_config=text)), 1)
    model.save_pretrained(folder)
    return model


def write_clip(folder: Path, whole: bool = True, **changes: Any) -> CLIPVisionModel:
    """The tower of a `CLIPModel`, or a `CLIPVisionModel`."""
    vision = {**VISION, **changes}
    if not whole:
        model = randomise(CLIPVisionModel(CLIPVisionConfig(**vision)), 1)
        model.save_pretrained(folder)
        return model
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2}
    model = randomise(CLIPModel(CLIPConfig(vision_config=vision, text_config=text)), 1)
    model.save_pretrained(folder)
    return model.vision_model


def write_dinov2(folder: Path, whole: bool = True, **changes: Any) -> Dinov2Model:
    """The tower of a `Dinov2ForImageClassification`, or a `Dinov2Model`."""
    config = Dinov2Config(**{k: v for k, v in VISION.items() if k != "intermediate_size"} | changes)
    model = randomise((Dinov2ForImageClassification if whole else Dinov2Model)(config), 1)
    model.save_pretrained(folder)
    return model.dinov2 if whole else model


class Upstream(nn.Module):
    """The dense path of LLaVA and Cambrian-S, spliced by hand of transformers' own classes."""

    def __init__(self, decoder: Qwen2ForCausalLM, tower: SiglipVisionModel, seed: int = 2) -> None:
        super().__init__()
        self.decoder, self.tower = decoder, tower
        generator = torch.Generator().manual_seed(seed)
        width, vision = decoder.config.hidden_size, tower.config.hidden_size
        self.projector = nn.Sequential(nn.Linear(vision, width), nn.GELU(), nn.Linear(width, width))
        self.newline = nn.Parameter(torch.randn(width, generator=generator))
        self.next_frame = nn.Linear(width, vision)
        self.eval()

    @torch.no_grad()
    def forward(self, ids: Tensor, pixels: Tensor, image_token: int, layer: int | None) -> Tensor:
        """Logits [S, vocabulary] of one row with one image, whose features take the place of `image_token`."""
        out = self.tower(pixels, output_hidden_states=True)
        features = out.last_hidden_state if layer is None else out.hidden_states[layer]
        visual = self.projector(features)[0]
        embedded = self.decoder.get_input_embeddings()(ids)
        where = int((ids == image_token).nonzero()[0])
        spliced = torch.cat([embedded[:where], visual, embedded[where + 1 :]])
        return self.decoder(inputs_embeds=spliced[None]).logits[0]


def write_upstream(
    folder: Path,
    tower_prefix: str | None = "model.vision_tower_aux_list.0.vision_tower.vision_model.",
    kept_layers: int = 2,
    as_bin: bool = False,
    vision: dict[str, Any] | None = None,
    **config: Any,
) -> Upstream:
    """A Cambrian-S checkpoint; without `tower_prefix` the tower was frozen and is not in it."""
    folder.mkdir(parents=True, exist_ok=True)
    decoder = randomise(Qwen2ForCausalLM(Qwen2Config(**SMALL, tie_word_embeddings=False)))
    tower = randomise(SiglipVisionModel(SiglipVisionConfig(**{**VISION, **(vision or {})})), 1)
    model = Upstream(decoder, tower)
    tensors = {name: tensor.detach().clone() for name, tensor in decoder.state_dict().items()}
    tensors |= {f"model.mm_projector.{name}": t.detach() for name, t in model.projector.state_dict().items()}
    tensors["model.image_newline"] = model.newline.detach()
    tensors |= {f"model.nfp_head.0.{name}": t.detach() for name, t in model.next_frame.state_dict().items()}
    if tower_prefix is not None:
        for name, tensor in tower.state_dict().items():
            part = name.split(".")
            if not name.startswith("head.") and not (part[0] == "encoder" and int(part[2]) >= kept_layers):
                tensors[tower_prefix + name] = tensor.detach()
    values = {
        **{k: v for k, v in decoder.config.to_dict().items() if k not in ("rope_parameters", "dtype")},
        "model_type": "cambrian_qwen",
        "architectures": ["CambrianQwenForCausalLM"],
        "rope_theta": decoder.config.rope_parameters["rope_theta"],
        "torch_dtype": "float32",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": tower.config.hidden_size,
        "mm_vision_tower_aux_list": ["small/siglip"],
        "mm_vision_select_layer": -2,
        "mm_use_im_newline_token": False,
        "image_aspect_ratio": "pad",
        **config,
    }
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    write_tokenizer(folder)
    write_weights(folder, tensors, as_bin)
    return model


def write_weights(folder: Path, tensors: dict[str, Tensor], as_bin: bool = False) -> None:
    """Two shards with their index."""
    stem, suffix = ("pytorch_model", "bin") if as_bin else ("model", "safetensors")
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"{stem}-{number:05d}-of-00002.{suffix}"
        content = {name: tensors[name].clone() for name in part}
        if as_bin:
            torch.save(content, folder / file)
        else:
            save_file(content, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


def write_sparse(folder: Path, shapes: dict[str, tuple[int, ...]], shards: int, dtype: str = "BF16") -> None:
    """Shards of any size whose values are a hole in the file: they take no room on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    names, width, weight_map = list(shapes), {"BF16": 2, "F32": 4}[dtype], {}
    for number in range(shards):
        file = "model.safetensors" if shards == 1 else f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        header, place = {}, 0
        for name in names[number::shards]:
            end = place + width * math.prod(shapes[name])
            header[name] = {"dtype": dtype, "shape": list(shapes[name]), "data_offsets": [place, end]}
            place = end
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as opened:
            opened.write(struct.pack("<Q", len(text)) + text)
            opened.truncate(8 + len(text) + place)
        weight_map |= dict.fromkeys(header, file)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def qwen_shapes(config: dict, biased: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of Qwen/Qwen3-4B and Qwen/Qwen2.5-7B as they are published."""
    width, heads, groups = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    head, inner = config.get("head_dim", width // heads), config["intermediate_size"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], width), "model.norm.weight": (width,)}
    for number in range(config["num_hidden_layers"]):
        layer = {"self_attn.o_proj.weight": (width, heads * head), "mlp.down_proj.weight": (width, inner)}
        layer |= {f"mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        layer |= {f"{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
        for name, count in (("q", heads), ("k", groups), ("v", groups)):
            layer[f"self_attn.{name}_proj.weight"] = (count * head, width)
            if biased:
                layer[f"self_attn.{name}_proj.bias"] = (count * head,)
            elif name != "v":
                layer[f"self_attn.{name}_norm.weight"] = (head,)
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    if biased:
        shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    return shapes


def siglip_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of google/siglip2-so400m-patch16-384, its text tower included."""
    width, inner = 1152, 4304
    shapes: dict[str, tuple[int, ...]] = {"logit_scale": (1,), "logit_bias": (1,)}
    for tower in ("text_model", "vision_model"):
        for number in range(27):
            layer = {f"layer_norm{n}.{kind}": (width,) for n in (1, 2) for kind in ("weight", "bias")}
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                layer |= {f"self_attn.{name}.weight": (width, width), f"self_attn.{name}.bias": (width,)}
            layer |= {"mlp.fc1.weight": (inner, width), "mlp.fc1.bias": (inner,)}
            layer |= {"mlp.fc2.weight": (width, inner), "mlp.fc2.bias": (width,)}
            shapes |= {f"{tower}.encoder.layers.{number}.{name}": shape for name, shape in layer.items()}
    text = {"embeddings.token_embedding.weight": (256000, width), "embeddings.position_embedding.weight": (64, width)}
    text |= {f"final_layer_norm.{kind}": (width,) for kind in ("weight", "bias")}
    text |= {"head.weight": (width, width), "head.bias": (width,)}
    vision = {"embeddings.patch_embedding.weight": (width, 3, 16, 16), "embeddings.patch_embedding.bias": (width,)}
    vision |= {"embeddings.position_embedding.weight": (576, width), "head.probe": (1, 1, width)}
    vision |= {"head.attention.in_proj_weight": (3 * width, width), "head.attention.in_proj_bias": (3 * width,)}
    vision |= {"head.attention.out_proj.weight": (width, width), "head.attention.out_proj.bias": (width,)}
    for norm in ("post_layernorm", "head.layernorm"):
        vision |= {f"{norm}.{kind}": (width,) for kind in ("weight", "bias")}
    vision |= {"head.mlp.fc1.weight": (inner, width), "head.mlp.fc1.bias": (inner,)}
    vision |= {"head.mlp.fc2.weight": (width, inner), "head.mlp.fc2.bias": (width,)}
    shapes |= {f"text_model.{name}": shape for name, shape in text.items()}
    return shapes | {f"vision_model.{name}": shape for name, shape in vision.items()}


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (open, (str(self.path), "w"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def make(backbone: dict, out: Path, kind: str = "qwen3", **options):
    root = backbone["root"]
    options = {"overrides": GAZE, "progress": False, **options}
    return initialise(out, str(root / kind), str(root / "siglip"), **options)


def convert(root: Path, siglip: str, choices: Choices | None = None, **options):
    """`root/up` to `root/model`, with the tower in the folder `siglip`."""
    return from_cambrian(root / "up", root / "model", choices, vision=siglip, progress=False, **options)


def change_config(**values) -> Callable[[Path], None]:
    """Changes the `config.json` of a checkpoint's folder."""

    def change(up: Path) -> None:
        config = json.loads((up / "config.json").read_text())
        (up / "config.json").write_text(json.dumps({**config, **values}))

    return change
