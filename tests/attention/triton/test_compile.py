"""The Triton kernels through Triton's compiler and ptxas, which need no device: what the interpreter accepts must also
be Triton, and fit the registers and the shared memory of a GPU.

The launcher itself runs, on tensors without data, so that signatures, sizes and options are those of a launch.
"""

import importlib.util
import os
import re
import subprocess
from types import SimpleNamespace

import pytest
import torch

from cambrian_gaze.attention.context import Seen
from cambrian_gaze.attention.triton import backend as triton_regions
from cambrian_gaze.attention.triton.plan import LaunchPlan

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1",
    reason="needs triton, not interpreted",
)

SHARED_BYTES = {80: 166_912, 90: 232_448}
"""Shared memory that a program may have, by compute capability: A100, and H100 or H200."""

KERNELS = ["blocks_forward", "rows_forward", "blocks_backward", "rows_backward", "text_context_backward"]
FEW = [(torch.bfloat16, 128, 36, 4, 90), (torch.float32, 128, 36, 7, 80)]
"""dtype, head size, tokens of a region, query heads per KV head, compute capability."""

MANY = [
    (dtype, dim, size, group, capability)
    for dtype in (torch.bfloat16, torch.float16, torch.float32)
    for dim in (64, 128)
    for size, group in [(36, 4), (9, 7), (64, 1)][: 1 if dtype == torch.float16 else None]
    for capability in (80, 90)
]
CASES = FEW + [pytest.param(*case, marks=pytest.mark.slow) for case in MANY if case not in FEW]


class Compiled:
    """In the place of a kernel: compiles what it is called with, for the device of `stand_in`, and launches nothing."""

    def __init__(self, kernel, built):
        self.kernel, self.built = kernel, built

    def __getitem__(self, grid):
        from triton.runtime.jit import MockTensor

        def launch(*args, **options):
            args = [MockTensor(x.dtype) if isinstance(x, torch.Tensor) else x for x in args]
            self.built[self.kernel.__name__] = self.kernel.warmup(*args, grid=grid, **options)

        return launch


def stand_in(capability: int) -> SimpleNamespace:
    """A driver with a device of this capability, which also is the device's number, so that no other's is taken."""
    from triton.backends.compiler import GPUTarget

    return SimpleNamespace(
        get_current_device=lambda: capability,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
    )


def plan_of(batch: int, queries: int, keys: int, regions: int, size: int) -> LaunchPlan:
    """A plan without data."""

    def numbers(*shape):
        return torch.empty(shape, dtype=torch.int64, device="meta")

    table = numbers(batch, regions, size)
    return LaunchPlan(*(numbers(batch, n) for n in (queries, queries, keys, keys, keys)), table, cuts=1)


def spilled(kernel, capability: int) -> int:
    """Bytes of registers that ptxas puts into memory."""
    from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability

    arch = f"--gpu-name={sm_arch_from_capability(capability)}"
    command = [get_ptxas(capability).path, "-v", arch, "/dev/stdin", "-o", os.devnull]
    said = subprocess.run(command, input=kernel.asm["ptx"], capture_output=True, text=True, check=True).stderr
    return int(re.search(r"(\d+) bytes spill stores", said)[1])


@pytest.mark.parametrize(("dtype", "dim", "size", "group", "capability"), CASES, ids=lambda x: str(x).split(".")[-1])
def test_the_kernels_compile_and_fit(monkeypatch, dtype, dim, size, group, capability):
    from triton.runtime import driver

    from cambrian_gaze.attention.triton import kernels as triton_kernels
    from cambrian_gaze.attention.triton import launch as triton_launch

    built = {}
    monkeypatch.setattr(driver, "_active", stand_in(capability))
    monkeypatch.setattr(triton_launch, "_is_wide", lambda q: q.dtype == torch.float32)  # meta is not cuda
    for name in KERNELS:
        monkeypatch.setattr(triton_kernels, name, Compiled(getattr(triton_kernels, name), built))
    batch, groups, queries, flat, regions = 2, 2, 8, 12, 5

    def tensor(heads, length):
        return torch.empty(batch, heads, length, dim, dtype=dtype, device="meta", requires_grad=True)

    q, k, v = tensor(groups * group, queries), tensor(groups, 100), tensor(groups, 100)
    chosen = torch.empty(batch, groups * group, queries, 3, dtype=torch.int64, device="meta")
    plan = plan_of(batch, queries, flat, regions, size)
    out = triton_regions.routed_attention(q, k, v, plan, chosen, dim**-0.5)
    torch.autograd.grad(out.sum(), (q, k, v))
    assert list(built) == KERNELS
    check_sizes(built, capability, 32 if capability == 90 and dtype != torch.float32 else 256)


STEPS = [
    pytest.param(torch.bfloat16, 128, 4, 4, 1024, 90),
    *(
        pytest.param(dtype, dim, heads, selections, regions, capability, marks=pytest.mark.slow)
        for dtype, dim in [(torch.bfloat16, 64), (torch.bfloat16, 128), (torch.float32, 64), (torch.float32, 128)]
        for heads, selections in [(4, 4), (4, 1), (7, 7)]
        for regions in (16, 4096)
        for capability in (80, 90)
    ),
]


@pytest.mark.parametrize(("dtype", "dim", "heads", "selections", "regions", "capability"), STEPS)
def test_the_kernels_of_a_step_compile_and_fit(monkeypatch, dtype, dim, heads, selections, regions, capability):
    from triton.runtime import driver

    from cambrian_gaze.attention.decode import triton_kernels as decode_triton_kernels
    from cambrian_gaze.attention.decode import triton_launch as decode_triton

    built, names = {}, ["score", "select", "attend", "merge"]
    monkeypatch.setattr(driver, "_active", stand_in(capability))
    for name in names:
        monkeypatch.setattr(decode_triton_kernels, name, Compiled(getattr(decode_triton_kernels, name), built))
    batch, groups, slots, columns = 1, 8, 36, 100

    def tensor(*shape, dtype=dtype):
        return torch.empty(shape, dtype=dtype, device="meta")

    pages = tensor(batch, groups, regions, slots, dim)
    flat = tensor(batch, groups, columns, dim)
    rows = pages.view(-1, slots * dim)
    layer = SimpleNamespace(
        page_keys=pages, text_context_keys=flat, text_context_values=flat, page_rows=lambda: (rows, rows, regions)
    )
    q = tensor(batch, groups, heads, dim)
    limits = tensor(batch, 1, regions, dtype=torch.bool), tensor(batch, 1, dtype=torch.int32)
    descriptors = tensor(batch, groups, regions, dim, dtype=torch.float32)
    assert decode_triton.chooses(regions, selections)
    wanted = decode_triton.choose(q, descriptors, limits, regions // 8, selections)
    seen = Seen(tensor(batch, regions * slots, dtype=torch.bool), tensor(batch, columns, dtype=torch.bool))
    decode_triton.attend(q, layer, wanted, seen, dim**-0.5)
    assert list(built) == names
    check_sizes(built, capability, 256)


def check_sizes(built, capability, most_spilled):
    for name, kernel in built.items():
        assert kernel.metadata.shared <= SHARED_BYTES[capability], name
        assert spilled(kernel, capability) <= most_spilled, name
