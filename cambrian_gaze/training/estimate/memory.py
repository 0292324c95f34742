"""Memory of one device in training, by part, from the model's sizes.

What autograd saves is counted term by term from what transformers' layers do, in the order of the forward pass; a test
compares it with what they save. `t` stands for a part that is trained: a frozen linear layer saves no input.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from cambrian_gaze.attention.masks import BLOCK_PAIRS, SAVED_PAIRS
from cambrian_gaze.models.tower.family import mlp_width
from cambrian_gaze.training.optimizer import DECODER, PROJECTOR, TOWER, module_of

FP32 = 4


@dataclass(frozen=True)
class Placement:
    """How weights and optimizer are stored and shared."""

    ranks: int
    zero_stage: int
    """0 without DeepSpeed."""

    bf16: bool
    checkpointing: bool
    bucket_elements: int = 0
    """DeepSpeed's `reduce_bucket_size`; two of them with `overlap_comm`."""

    @property
    def dtype_bytes(self) -> int:
        """Of activations."""
        return 2 if self.bf16 else FP32

    @property
    def weight_bytes(self) -> int:
        """Of a weight: DeepSpeed holds the model in bf16, Trainer by itself in fp32 under autocast."""
        return 2 if self.bf16 and self.zero_stage else FP32


@dataclass(frozen=True)
class MicroBatch:
    """The largest batch of one rank, or of the ranks of a sequence-parallel group."""

    rows: int
    length: int
    """Tokens of a row, padding included."""

    units: int
    """Images and frames of all rows."""

    supervised: int
    """Supervised tokens of all rows."""

    most_regions: int = 0
    """Largest K of a routed step."""

    shards: int = 1
    """Ranks that share the batch. Features and embeddings of the whole, which none of them keeps, are not counted."""

    @property
    def tokens(self) -> int:
        """Tokens of one rank."""
        return self.rows * -(-self.length // self.shards)

    @property
    def own_units(self) -> int:
        """Images and frames that one rank's tower sees."""
        return -(-self.units // self.shards)

    @property
    def most_supervised(self) -> int:
        """Supervised tokens of the rank that has the most: answers stand at the end of a row, on one rank."""
        return min(self.supervised, self.tokens)


def state_bytes(model: nn.Module, place: Placement) -> dict[str, int]:
    """`weights`, `gradients`, `optimizer` (AdamW: two moments, and under DeepSpeed a master copy) and `buffers`."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    every, trained = sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains)

    def shared(amount: int, stage: int) -> int:
        return -(-amount // place.ranks) if place.zero_stage >= stage else amount

    master = FP32 if place.zero_stage and place.bf16 else 0
    # DeepSpeed casts its share of the gradients to fp32 for the step.
    cast = FP32 if place.zero_stage and place.bf16 else 0
    autocast = 2 * every if place.bf16 and not place.zero_stage else 0
    return {
        "weights": shared(every * place.weight_bytes, 3) + autocast,
        "gradients": shared(trained * place.weight_bytes, 2),
        "optimizer": shared(trained * (master + cast + 2 * FP32), 1),
        "buffers": 2 * place.bucket_elements * place.weight_bytes if place.zero_stage and place.ranks > 1 else 0,
    }


def saved_bytes(model: nn.Module, batch: MicroBatch, place: Placement, backend: str) -> dict[str, int]:
    """What is held at the end of the forward pass: `tower`, `projector`, `decoder`, `keys and values`, `logits` and,
    under checkpointing, `selections`; then `recomputed`, the decoder or tower layer that the backward pass rebuilds,
    and `working`, the largest temporaries.

    `backend`: name of the attention backend; `masked` saves masks of the queries that choose, while they are small.
    """
    trained = {module_of(name) for name, p in model.named_parameters() if p.requires_grad}
    trains = {part: part in trained for part in (DECODER, TOWER, PROJECTOR)}
    b, tokens = place.dtype_bytes, batch.tokens
    text = model.config.get_text_config()
    tower_layer, tower_rest = _tower(model, batch.own_units, b) if trains[TOWER] else (0, 0)
    layer, keys_values = _decoder_layer(model, batch, b, trains[DECODER], backend)
    width, layers = text.hidden_size, text.num_hidden_layers
    norm = tokens * width * (FP32 + b * trains[DECODER])
    vision = model.config.vision_config
    if place.checkpointing:
        decoder, kept_kv, recomputed = layers * tokens * width * b, 0, layer + keys_values
        tower = vision.num_hidden_layers * _patches(model) * batch.own_units * vision.hidden_size * b * trains[TOWER]
        recomputed = max(recomputed, tower_layer)
    else:
        decoder, kept_kv, recomputed = layers * layer, layers * keys_values, 0
        tower = vision.num_hidden_layers * tower_layer
    logits = batch.most_supervised * text.vocab_size
    routes = batch.most_regions and place.checkpointing
    (height, wide), context = model.config.grid, model.config.gaze_config.num_context_tokens
    routing = max(0, batch.rows * batch.length - batch.units * (height * wide + context))  # text
    heads = -(-text.num_attention_heads // batch.shards)
    return {
        "tower": tower + tower_rest,
        "projector": _projector(model, batch.own_units, b),
        "decoder": decoder + norm,
        "keys and values": kept_kv,
        # Log-softmax in fp32, and the output layer's input.
        "logits": logits * FP32 + batch.most_supervised * width * b * trains[DECODER],
        "selections": 8 * layers * routing * heads * batch.most_regions if routes else 0,
        "recomputed": recomputed,
        # The loss upcasts the logits and their gradient; masks are made in blocks.
        "working": max(
            logits * (b + FP32), min(BLOCK_PAIRS, _mask_pairs(model, batch)) * (b + 1) if backend == "masked" else 0
        ),
    }


def _decoder_layer(model: nn.Module, batch: MicroBatch, b: int, t: bool, backend: str) -> tuple[int, int]:
    """Bytes that one layer saves, and of these again apart the keys and values."""
    config = model.config.get_text_config()
    tokens, width, inner = batch.tokens, config.hidden_size, config.intermediate_size
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    head = getattr(config, "head_dim", None) or width // heads
    has_qk_norm = any(name.endswith("q_norm.weight") for name, _ in model.named_parameters())
    normed = 2 * width + (heads + groups) * head * has_qk_norm
    per_token = normed * (FP32 + b * t)  # RMSNorm: its input in fp32, and what its weight multiplies
    per_token += 2 * width * b * t  # inputs of q, k, v and of gate, up
    per_token += 2 * heads * head * b + heads * FP32  # q, the output (also the input of o), log-sum-exp
    if batch.shards > 1:
        per_token += heads * head * b * t  # the input of o has come from other ranks
    per_token += inner * b * (3 + t)  # gate, its SiLU, up; input of down
    apart = _rows_apart(model, batch, head, b) if backend == "masked" else 0
    return per_token * tokens + apart, 2 * groups * head * b * tokens


def _rows_apart(model: nn.Module, batch: MicroBatch, head: int, b: int) -> int:
    """What the masked backend saves beside plain attention: outputs before and after rows took their places, and of
    the rows that choose queries, outputs and mask, where that is not made again in the backward pass."""
    heads, routing = -(-model.config.get_text_config().num_attention_heads // batch.shards), _routing(model, batch)
    if not routing and not model.config.gaze_config.num_context_tokens:
        return 0
    mask = _mask_pairs(model, batch)
    kept = mask if mask // batch.rows <= SAVED_PAIRS else 0
    return (heads * head * (batch.rows * batch.length + 2 * routing) + kept) * b


def _routing(model: nn.Module, batch: MicroBatch) -> int:
    """Queries that choose regions: the text."""
    (height, wide), context = model.config.grid, model.config.gaze_config.num_context_tokens
    text = max(0, batch.rows * batch.length - batch.units * (height * wide + context))
    return text if batch.most_regions else 0


def _mask_pairs(model: nn.Module, batch: MicroBatch) -> int:
    """Pairs of a query that chooses, of each head, and a key of its row."""
    heads = -(-model.config.get_text_config().num_attention_heads // batch.shards)
    return heads * _routing(model, batch) * batch.length


def _tower(model: nn.Module, units: int, b: int) -> tuple[int, int]:
    """Bytes that one layer of a trained tower saves, and what lies outside of the layers."""
    config = model.config.vision_config
    positions, width = units * _patches(model), config.hidden_size
    # Inputs of two layer norms, of q/k/v, of fc1; q, k, v and the output; around GELU; log-sum-exp.
    layer = positions * (b * (8 * width + 2 * mlp_width(config)) + FP32 * config.num_attention_heads)
    return layer, units * 3 * config.image_size**2 * b + positions * width * b


def _projector(model: nn.Module, units: int, b: int) -> int:
    config = model.config
    wide, narrow = config.text_config.hidden_size, config.vision_config.hidden_size
    before, after = units * _patches(model), units * config.grid[0] * config.grid[1]
    if config.mm_projector_type == "mlp2x_gelu":
        return b * before * (narrow + 2 * wide)
    if config.mm_conv_position == "before_mlp":
        return b * (before * narrow + after * (narrow + 2 * wide))
    return b * before * (narrow + 3 * wide)


def _patches(model: nn.Module) -> int:
    rows, columns = model.config.tower_grid
    return rows * columns
