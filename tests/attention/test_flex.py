"""The flex backend: its blocks and mask function against the mask over all pairs, outputs against the oracle (forward
on a CPU, where FlexAttention has no gradients; gradients on a GPU), no recompilation, and what it refuses."""

import dataclasses

import pytest
import torch
import torch._dynamo.testing

from cambrian_gaze.attention import GazeRecorder, attend, flex, prepare, registry
from cambrian_gaze.attention.counted import at_queries
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.oracle import oracle_attention
from tests._layouts import build, draw_case, draw_tensors
from tests.attention._run import SCALING, context, gradients, real, reference, run
from tests.attention._square import square_mask

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def fresh_compiler():
    """Every test compiles for sizes and rules of its own; torch gives up after so many."""
    yield
    torch._dynamo.reset()


def with_blocks(text: int = 30, top_k: int = 2, seed: int = 0, **options):
    """A layout of several blocks, two rows of unlike length, and random tensors [2, 4 or 2, S, 16]."""
    config = GazeConfig(image=RegionBudget((1, 4, 4), top_k=top_k), num_context_tokens=2, backend="flex", **options)
    rows = [
        [[("text", (text,)), ("image", (1, 12, 12)), ("text", (9,)), ("video", (3, 8, 8)), ("text", (text,))]],
        [[("text", (3,)), ("image", (1, 12, 12)), ("text", (9,))], [("image", (1, 4, 8)), ("text", (5,))]],
    ]
    layout = build(rows, config).layout()
    generator = torch.Generator().manual_seed(seed)
    tensors = tuple(torch.randn(2, heads, layout.shape[1], 16, generator=generator) for heads in (4, 2, 2))
    return config, layout, tensors


def visible_by_blocks(ctx, mask, blocks, heads):
    """bool [B, H, Q, S]: what the kernel lets through by its block tensors and mask function; and the tiles alone."""
    (batch, queries), keys = ctx.layout.shape, ctx.key_layout.shape[1]
    tiles = {}
    for prefix in ("", "full_"):
        count, order = blocks[f"{prefix}kv_num_blocks"], blocks[f"{prefix}kv_indices"]
        listed = torch.arange(order.shape[-1]) < count[..., None]
        tile = torch.zeros(order.shape, dtype=torch.bool).scatter(-1, order.long(), listed)
        across = torch.zeros_like(tile.transpose(-1, -2))
        count, order = blocks[f"{prefix}q_num_blocks"], blocks[f"{prefix}q_indices"]
        listed = torch.arange(order.shape[-1]) < count[..., None]
        assert torch.equal(across.scatter(-1, order.long(), listed), tile.transpose(-1, -2)), "the two lists agree"
        tiles[prefix] = tile.repeat_interleave(flex.BLOCK, -1).repeat_interleave(flex.BLOCK, -2)[..., :queries, :keys]
    b, h, i, j = (torch.arange(n) for n in (batch, heads, queries, keys))
    pairs = mask(b[:, None, None, None], h[:, None, None], i[:, None], j)
    return tiles["full_"] | (tiles[""] & pairs), tiles


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head_granularity": "kv_group"},
        {"visual_queries": "unit", "context_visible": False},
        {"visual_queries": "gaze", "visual_sees_context": False},
        {"dense_layers": (0,)},
    ],
    ids=str,
)
def test_blocks_and_mask_function_are_the_mask(options):
    """Pair by pair the mask over all pairs, over blocks that are skipped, whole and partial."""
    config, layout, (q, k, _) = with_blocks(text=140, **options)
    ctx = prepare(context(layout, config), CPU, torch.float32)
    want = square_mask(layout, config, None)
    if config.routes(0):
        routing = ctx.prepared.own.routing
        router, rows = routing.router, routing.rows
        asking = q.gather(2, rows[:, None, :, None].expand(-1, 4, -1, 16))
        regions = router.choose(0, asking, k, layout.region, SCALING)
        want = square_mask(layout, config, at_queries(regions, rows, layout.shape[1]))
        want = want.repeat_interleave(4 // want.shape[1], dim=1)
        selected = flex.as_mask(regions, layout.num_regions)
        mask = routing.mask(selected, torch.arange(4) // (4 // selected.shape[1]))
        blocks = routing.blocks
    else:
        mask, blocks = ctx.prepared.own.seen, ctx.prepared.own.dense_blocks
    got, tiles = visible_by_blocks(ctx, mask, blocks, heads=4)
    assert torch.equal(got.expand(-1, 4, -1, -1), want.expand(-1, 4, -1, -1))
    skipped = ~(tiles[""] | tiles["full_"])
    assert skipped.any() and tiles["full_"].any() and tiles[""].any() and not (tiles[""] & tiles["full_"]).any()


def test_blocks_do_not_depend_on_the_chunks(monkeypatch):
    config, layout, _ = with_blocks()
    whole = flex.block_tensors(layout, layout, config, routing=True)
    monkeypatch.setattr(flex, "CHUNK", flex.BLOCK)
    parts = flex.block_tensors(layout, layout, config, routing=True)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def check_forward(seed: int, dtype: torch.dtype) -> None:
    case, layout, tensors, want, *_ = reference(seed)
    with torch.no_grad():
        out = run(*(x.to(dtype) for x in tensors), layout, dataclasses.replace(case.config, backend="flex"))
    where = real(layout, case.heads)
    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    assert out.dtype == dtype and out.isfinite().all()
    assert torch.allclose(out[where].double(), want[where], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("seed", [0, 2, 7, 13])
def test_forward_equals_the_oracle(seed):
    """Groups of 1, 4 and 7 heads, both granularities."""
    check_forward(seed, torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("seed", range(24))
def test_forward_equals_the_oracle_on_every_case(seed, dtype):
    check_forward(seed, dtype)


def test_dense_layers_and_dense_prompts():
    case = draw_case(3, dense_layers=(1,))
    config = dataclasses.replace(case.config, backend="flex")
    layout = case.batch.layout()
    layout = dataclasses.replace(layout, routed=layout.index % 2 == 0)
    tensors = draw_tensors(case, dim=8, scaling=SCALING)
    where = real(layout, case.heads)
    for layer in (0, 1):
        want, _ = oracle_attention(*tensors, layout, config, scaling=SCALING, layer=layer)
        out = run(*tensors, layout, config, layer=layer)
        assert torch.allclose(out[where], want[where], atol=1e-11)


def test_counts_what_the_masked_backend_counts():
    config, layout, tensors = with_blocks()
    records = []
    for backend in ("flex", "masked"):
        recorder = GazeRecorder()
        run(*tensors, layout, dataclasses.replace(config, backend=backend), recorder=recorder)
        records.append(recorder)
    a, b = records
    assert a.stats() == b.stats() and a.stats().attended_visual > 0
    for name in ("regions", "visual", "context", "text"):
        assert torch.equal(getattr(a.layers[0], name), getattr(b.layers[0], name))


def test_compiled_once_for_all_layers_steps_and_lengths(monkeypatch):
    """The schedule's configurations, other selections and other lengths: one compilation. (One more where sizes that
    had nothing to do with each other were equal the first time, such as heads and blocks.)"""
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(flex.flex_attention, backend=counter, dynamic=True, fullgraph=True)
    monkeypatch.setattr(flex, "_compiled", lambda device_type: compiled)
    for step, (text, top_k) in enumerate([(150, 2), (150, 3), (41, 2), (300, 1)]):
        config, layout, (q, k, v) = with_blocks(text, top_k, seed=step, min_keep_ratio=0.1 * step)
        ctx = prepare(context(layout, config), CPU, torch.float32)
        want = prepare(context(layout, dataclasses.replace(config, backend="masked")), CPU, torch.float32)
        for layer in (0, 1):
            out = attend(q, k, v, ctx, layer=layer, scaling=SCALING)
            where = real(layout, 4)
            assert torch.allclose(out[where], attend(q, k, v, want, layer=layer, scaling=SCALING)[where], atol=1e-5)
    assert counter.frame_count == 1


def test_short_queries_ask_for_the_same_kernel(monkeypatch):
    """Torch's own choice for fewer than 128 queries does not compile for many of them (`test_few_queries`)."""
    asked = []
    kernel = flex._compiled("cpu")

    def spy(*args, **kwargs):
        asked.append(kwargs["kernel_options"])
        return kernel(*args, **kwargs)

    monkeypatch.setattr(flex, "_compiled", lambda device_type: spy)
    config, layout, tensors = with_blocks(text=5)
    run(*tensors, layout, config)
    assert asked == [{"BACKEND": "TRITON"}]


@pytest.mark.slow
def test_the_compiled_kernel_reads_the_blocks(monkeypatch):
    """The C++ kernel that torch makes for a CPU goes by the block tensors, as the GPU's does. One shape: torch 2.13
    writes C++ that does not compile when shapes are dynamic."""
    compiled = torch.compile(flex.flex_attention, dynamic=False, fullgraph=True)
    monkeypatch.setattr(flex, "_compiled", lambda device_type: compiled)
    config, layout, tensors = with_blocks(text=40)
    out = run(*tensors, layout, config)
    want = run(*tensors, layout, dataclasses.replace(config, backend="masked"))
    where = real(layout, 4)
    assert torch.allclose(out[where], want[where], atol=1e-5)


def test_gradients_on_a_cpu_are_refused():
    config, layout, (q, k, v) = with_blocks()
    q.requires_grad_()
    with pytest.raises(ValueError, match="'flex' has no gradients on cpu"):
        run(q, k, v, layout, config)
    with torch.no_grad():
        assert run(q, k, v, layout, config).isfinite().all()


def test_dropout_is_refused():
    config, layout, (q, k, v) = with_blocks()
    ctx = prepare(context(layout, config), CPU, torch.float32)
    with pytest.raises(ValueError, match="no attention dropout"):
        attend(q, k, v, ctx, layer=0, scaling=SCALING, dropout=0.1)


def test_refusals_give_the_reason(monkeypatch):
    config = GazeConfig(backend="flex")
    with pytest.raises(ValueError, match="'flex' cannot run here: .* not torch.float64"):
        registry.pick(config, CUDA, torch.float64)
    with pytest.raises(ValueError, match="not on mps"):
        registry.pick(config, torch.device("mps"), torch.float32)
    monkeypatch.setattr(flex.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="triton, which is not installed"):
        registry.pick(config, CUDA, torch.bfloat16)


@pytest.mark.parametrize(("device", "dtype"), [(CUDA, torch.bfloat16), (CUDA, torch.float64), (CPU, torch.float32)])
def test_auto_takes_masked_where_nothing_was_tried(device, dtype):
    assert registry.pick(GazeConfig(), device, dtype).name == "masked"


def test_a_model_answers_the_same():
    """Prefill of a whole model, and decoding after it."""
    from cambrian_gaze import CambrianGazeForConditionalGeneration

    model = CambrianGazeForConditionalGeneration.from_preset("tiny").eval()
    tokens = [0] * 3 + [1] * 64 + [3] * 4 + [0] * 5
    types = torch.tensor([tokens])
    ids = torch.where(types == 1, model.config.image_token_id, torch.arange(len(tokens)) + 4)
    ids = torch.where(types == 3, model.config.context_token_id, ids)
    inputs = {"input_ids": ids, "mm_token_type_ids": types, "grid_thw": torch.tensor([[1, 8, 8]])}
    inputs["pixel_values"] = torch.randn(1, 3, 64, 64)
    answers, logits = [], []
    for backend in ("flex", "masked"):
        gaze = {"backend": backend, "top_k": 2}
        answers.append(model.generate(**inputs, gaze=gaze, max_new_tokens=4, do_sample=False))
        with torch.no_grad():
            logits.append(model(**inputs, gaze=gaze).logits)
    assert torch.equal(*answers) and torch.allclose(*logits, atol=1e-4)


@pytest.mark.gpu
class TestOnAGpu:
    """Outputs and gradients of the compiled kernels."""

    def compare(self, tensors, layout, config, dtype, tolerance, heads, layer=0):
        """Flex in `dtype` against the masked backend in float32 on the same numbers."""
        layout = layout.to(CUDA)
        where = real(layout, heads)
        results = []
        for backend, kind in (("flex", dtype), ("masked", torch.float32)):
            inputs = tuple(x.to(CUDA, dtype).to(kind).requires_grad_() for x in tensors)
            out = run(*inputs, layout, dataclasses.replace(config, backend=backend), layer=layer)
            weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(7)).to(CUDA, dtype).to(kind)
            grads = torch.autograd.grad((out * weight)[where].sum(), inputs)
            results.append((out[where], *grads))
        for name, got, want in zip(("out", "dq", "dk", "dv"), *results, strict=True):
            assert got.isfinite().all(), name
            scale = want.abs().max().item()
            assert (got.float() - want).abs().max().item() <= tolerance * max(scale, 1.0), name

    @pytest.mark.parametrize("seed", [2, 7])
    def test_equals_the_oracle(self, seed):
        """fp32, outputs and dq, dk, dv against the loop in float64."""
        case = draw_case(seed)
        layout = case.batch.layout()
        tensors = tuple(x.requires_grad_() for x in draw_tensors(case, dim=16, scaling=SCALING))
        want, _ = oracle_attention(*tensors, layout, case.config, scaling=SCALING)
        where = real(layout, case.heads)
        want_grads = gradients(want, tensors, where)
        inputs = tuple(x.detach().float().to(CUDA).requires_grad_() for x in tensors)
        out = run(*inputs, layout.to(CUDA), dataclasses.replace(case.config, backend="flex"))
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        grads = torch.autograd.grad((out * weight.to(out))[where.to(CUDA)].sum(), inputs)
        assert torch.allclose(out.cpu().double()[where], want[where], atol=1e-4, rtol=1e-4)
        for name, got, expected in zip("qkv", grads, want_grads, strict=True):
            assert torch.allclose(got.cpu().double(), expected, atol=5e-4, rtol=5e-4), f"d{name}"

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.bfloat16, 3e-2)], ids=str)
    @pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
    def test_several_blocks(self, dtype, tolerance, granularity):
        config, layout, tensors = with_blocks(text=140, head_granularity=granularity)
        self.compare(tensors, layout, config, dtype, tolerance, heads=4)

    @pytest.mark.parametrize("group", [4, 7])
    def test_heads_of_128_in_groups(self, group):
        config, layout, _ = with_blocks()
        generator = torch.Generator().manual_seed(1)
        shapes = [(2, heads, layout.shape[1], 128) for heads in (2 * group, 2, 2)]
        tensors = tuple(torch.randn(shape, generator=generator) for shape in shapes)
        self.compare(tensors, layout, config, torch.bfloat16, 3e-2, heads=2 * group)

    @pytest.mark.parametrize("queries", [5, 100])
    def test_few_queries(self, queries):
        """The last queries of longer rows, as where a prompt goes on: 4 heads share a KV head."""
        config, layout, _ = with_blocks()
        generator = torch.Generator().manual_seed(1)
        shapes = [(2, heads, layout.shape[1], 128) for heads in (8, 2, 2)]
        q, k, v = (torch.randn(shape, generator=generator).to(CUDA, torch.bfloat16) for shape in shapes)
        layout = layout.to(CUDA)
        last = layout.tokens(slice(-queries, None))
        outs = []
        for backend, kind in (("flex", torch.bfloat16), ("masked", torch.float32)):
            ctx = context(last, dataclasses.replace(config, backend=backend))
            ctx.key_layout = layout
            inputs = (x.to(kind) for x in (q[:, :, -queries:], k, v))
            with torch.no_grad():
                outs.append(attend(*inputs, prepare(ctx, CUDA, kind), layer=0, scaling=SCALING)[real(last, 8)])
        assert (outs[0].float() - outs[1]).abs().max() <= 3e-2 * max(1.0, outs[1].abs().max())

    def test_every_region_is_dense_attention(self):
        config, layout, tensors = with_blocks(top_k=999)
        dense = dataclasses.replace(config, image=RegionBudget((1, 4, 4)))
        layout = layout.to(CUDA)
        outs = [run(*(x.to(CUDA) for x in tensors), layout, c)[real(layout, 4)] for c in (config, dense)]
        assert torch.allclose(*outs, atol=1e-5)

    def test_compiled_once_for_all_lengths(self):
        """Lengths, budgets and schedules change; the kernels do not. Dynamo counts what it compiles."""
        counts = []
        for step, (text, top_k) in enumerate([(150, 2), (41, 3), (300, 1), (90, 2)]):
            config, layout, tensors = with_blocks(text, top_k, seed=step, min_keep_ratio=0.1 * step)
            inputs = tuple(x.to(CUDA).requires_grad_() for x in tensors)
            run(*inputs, layout.to(CUDA), config).sum().backward()
            counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        assert len(set(counts)) == 1, counts

    def test_small_heads_are_refused(self):
        config, layout, tensors = with_blocks()
        with pytest.raises(ValueError, match="at least 16"):
            run(*(x[..., :8].contiguous().to(CUDA) for x in tensors), layout.to(CUDA), config)

    def test_a_training_step_of_a_model(self):
        """The loss and the gradients of the masked backend."""
        from cambrian_gaze import CambrianGazeForConditionalGeneration
        from cambrian_gaze.bench.train_step import random_batch

        model = CambrianGazeForConditionalGeneration.from_preset("tiny").to(CUDA).train()
        batch = random_batch(model.config, 2, 2, 40, CUDA)
        results = []
        for backend in ("flex", "masked"):
            model.zero_grad()
            loss = model(**batch, gaze={"backend": backend}).loss
            loss.backward()
            norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
            results.append((loss.item(), norm.item()))
        assert results[0] == pytest.approx(results[1], rel=1e-3)
