"""One decoding step on a CPU in compiled code, `attention/native/decode_step.cpp`: scores, TopK and attention in one
call, over the pages where they lie, in the threads of torch. Same contract as `reference`, and the same numbers.

setup.py compiles it for several instruction sets, where there is a C++ compiler. Without it, and for what it does not
take, `cpu` does the same in plain torch; `missing` says why.

Shapes: B rows, G KV heads, n query heads per KV head, R regions of m slots, T text and context columns, D head size,
K selected regions, s selections per KV head (1, or n).
"""

from __future__ import annotations

import ctypes
import logging
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from cambrian_gaze.attention.context import LayerPages, Seen, text_context_columns
from cambrian_gaze.gaze.routing import Pool

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parents[1] / "native"
"""Source and builds."""

BUILDS = {"AVX512": ("avx512", "avx2", "any"), "AVX2": ("avx2", "any")}
"""The processor's instruction set, as torch names it → builds that run on it, the fastest first. Others: "any"."""

DTYPES = (torch.float32, torch.bfloat16)

DIM_STEP = 16
"""Head sizes are multiples of this: of the widest vector."""

MOST_HEADS = 64
"""Query heads per KV head, at most: they are marked by the bits of one word."""


class Step(ctypes.Structure):
    """The argument of `gaze_decode_step`, whose source says what each field is."""

    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in ("q", "page_keys", "page_values", "text_context_keys", "text_context_values")
        ),
        *((name, ctypes.c_void_p) for name in ("descriptors", "page_seen", "text_context_seen")),
        *((name, ctypes.c_void_p * 2) for name in ("hidden", "dropped")),
        *((name, ctypes.c_void_p) for name in ("regions", "visual", "out", "run_parallel")),
        ("most", ctypes.c_int64 * 2),
        *((name, ctypes.c_int64) for name in ("batch", "groups", "heads", "dim", "num_regions", "slots", "room")),
        *((name, ctypes.c_int64) for name in ("columns", "flat_row", "flat_group", "selections", "is_bf16", "threads")),
        ("scaling", ctypes.c_double),
    ]


def takes(grouped: Tensor) -> bool:
    """Whether a step of queries [B, G, n, D] on a CPU without gradients can run here."""
    heads, dim = grouped.shape[2:]
    return grouped.dtype in DTYPES and dim % DIM_STEP == 0 and heads <= MOST_HEADS and _library() is not None


def missing() -> str | None:
    """Why there is no compiled code for this processor, or None."""
    best = _best_build()
    if best is None:
        return "cambrian_gaze was installed without a C++ compiler; install it again with one"
    try:
        source = _open(best).gaze_decode_source()
    except OSError as error:
        return f"it was compiled for another system ({error}); install cambrian_gaze again on this one"
    if source != _checksum():
        return "it was compiled from another version of the source; install cambrian_gaze again"
    return None


def attend(
    grouped: Tensor, pages: LayerPages, seen: Seen, regions: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    """As `reference.attend`; a mask of `seen` may be None.

    Returns: [B, G, n, D], and int64 [B, G, n]: the slots that entered the softmax.
    """
    step = Step()
    if regions is not None:
        regions = regions.contiguous()
        step.most[0], step.selections = regions.shape[-1], regions.shape[1] // grouped.shape[1]
        step.regions = regions.data_ptr()
    return _run(step, grouped, pages, seen, scaling)


def choose_and_attend(
    grouped: Tensor, pages: LayerPages, seen: Seen, pools: tuple[Pool, ...], selections: int, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`attend` to the regions whose descriptors have the highest products with the queries, or with their mean over a
    KV head where `selections` is 1: what `region_scores` and `choose_from` make of one-vector descriptors.

    Returns: as `attend`, and the regions int64 [B, G·s, 1, K].
    """
    batch, groups = grouped.shape[:2]
    step = Step()
    step.selections = selections
    for number, pool in enumerate(pools):
        step.most[number] = pool.most
        step.hidden[number], step.dropped[number] = _address(pool.hidden), _address(pool.dropped)
    regions = torch.empty((batch, groups * selections, 1, sum(pool.most for pool in pools)), dtype=torch.int64)
    descriptors = pages.descriptors.contiguous()
    step.regions, step.descriptors = regions.data_ptr(), descriptors.data_ptr()
    return *_run(step, grouped, pages, seen, scaling), regions


def _run(step: Step, grouped: Tensor, pages: LayerPages, seen: Seen, scaling: float) -> tuple[Tensor, Tensor]:
    """Fill in the rest of `step`, and take it. Everything it points to lives until then."""
    grouped = grouped.contiguous()
    (key_rows, value_rows, step.room), (keys, values) = pages.page_rows(), text_context_columns(pages)
    out, visual = torch.empty_like(grouped), torch.empty(grouped.shape[:3], dtype=torch.int64)
    step.q, step.out, step.visual = grouped.data_ptr(), out.data_ptr(), visual.data_ptr()
    step.page_keys, step.page_values = key_rows.data_ptr(), value_rows.data_ptr()
    step.text_context_keys, step.text_context_values = keys.data_ptr(), values.data_ptr()
    step.page_seen, step.text_context_seen = _address(seen.pages), _address(seen.text_context)
    step.batch, step.groups, step.heads, step.dim = grouped.shape
    step.num_regions, step.slots = pages.page_keys.shape[2:4]
    step.columns, (step.flat_row, step.flat_group) = keys.shape[2], keys.stride()[:2]
    step.is_bf16, step.threads, step.scaling = grouped.dtype == torch.bfloat16, torch.get_num_threads(), scaling
    take, step.run_parallel = _library()
    take(ctypes.byref(step))
    return out, visual


def _address(mask: Tensor | None) -> int | None:
    """Where the data of a mask lies; None for no mask. The caller keeps the mask for all layers of a step."""
    if mask is None:
        return None
    if not mask.is_contiguous():
        raise ValueError(f"a mask of shape {list(mask.shape)} must be contiguous, its strides are {mask.stride()}")
    return mask.data_ptr()


@lru_cache(maxsize=1)
def _library() -> tuple[Callable, int | None] | None:
    """The function that takes a step, and the address of what runs a function in torch's threads; None where there is
    no compiled code, which is said once."""
    reason = missing()
    if reason is not None:
        logger.warning("decoding on this CPU runs in plain torch, not in the faster compiled code: %s", reason)
        return None
    return _open(_best_build()).gaze_decode_step, _run_parallel()


def _best_build() -> str | None:
    return next((name for name in _builds() if _path(name)), None)


def _builds() -> tuple[str, ...]:
    return BUILDS.get(torch.backends.cpu.get_cpu_capability(), ("any",))


def _path(build: str) -> Path | None:
    return next(FOLDER.glob(f"decode_{build}.*"), None)


@lru_cache
def _open(build: str) -> ctypes.CDLL:
    library = ctypes.CDLL(str(_path(build)))
    library.gaze_decode_source.restype = ctypes.c_uint32
    library.gaze_decode_step.restype = None
    return library


def _checksum() -> int:
    """Checksum of the sources, as setup.py computes it when it compiles them."""
    return zlib.crc32(b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.[ch]*"))))


def _run_parallel() -> int | None:
    """Address of `GOMP_parallel` in the OpenMP runtime that torch itself has loaded, GNU's or LLVM's: a second runtime
    would have threads of its own, which fight with torch's for the cores. None: torch has none; one thread does all."""
    try:
        return ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, ctypes.c_void_p).value
    except AttributeError:
        return None
