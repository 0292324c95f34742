"""Measuring: medians after warm-up, peak memory, and the rows and tables of benches.

Imports torch only inside functions: a bench's `--help` must not wait for it.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Row = dict[str, Any]

ROW_KEYS = (
    "arm",
    "visual_tokens",
    "kept",
    "granularity",
    "dtype",
    "median_us",
    "ratio_to_dense",
    "max_error",
    "device",
)
"""Keys of every row; a bench adds its own. None: does not apply, or was not measured. `kept` is the share of the
regions that a query keeps, 1.0 for dense attention; `device` is the device's type."""

NO_TIME_LEFT = "no time left"


def median_us(
    call: Callable[[], Any], device: torch.device, *, warmup: int = 3, repeats: int = 20, seconds: float = 2.0
) -> float:
    """Median time of one call in µs: perf_counter on a CPU, a pair of CUDA events per call on a GPU.

    Args:
        warmup: calls before the first one that counts (compilation, caches, clocks).
        repeats: calls that count, at most; fewer, but at least 3, once they have taken `seconds`.
    """
    import torch

    on_gpu = device.type == "cuda"
    for _ in range(warmup):
        call()
    if on_gpu:
        torch.cuda.synchronize(device)
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < repeats and (len(times) < 3 or time.perf_counter() - begin < seconds):
        if on_gpu:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e3)
        else:
            since = time.perf_counter()
            call()
            times.append((time.perf_counter() - since) * 1e6)
    return statistics.median(times)


def add_time_limit(parser: argparse.ArgumentParser) -> None:
    """Declare the option that `time_is_up` is made from, so that a bench that is slow leaves a table all the same."""
    parser.add_argument(
        "--time_limit", type=float, metavar="S", help="seconds after which nothing more is begun; default: none"
    )


def time_is_up(args: argparse.Namespace) -> Callable[[], bool]:
    """Whether `--time_limit` seconds have passed since this call."""
    left = time_left(args)
    return lambda: left() < 0


def time_left(args: argparse.Namespace) -> Callable[[], float]:
    """Seconds that are left of `--time_limit`, which begins with this call; infinite without one."""
    end = math.inf if args.time_limit is None else time.perf_counter() + args.time_limit
    return lambda: end - time.perf_counter()


@contextlib.contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Within, `count` processes compute without end, as other people's do on a shared machine. They end with us."""
    endless = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    processes = [subprocess.Popen([sys.executable, "-c", endless]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """Most bytes that one call holds beyond what was allocated before it: tensors only, by torch's own books."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = call()
    del result
    held = peak = 0
    events = profile.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def max_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest absolute difference, in float64."""
    return float((got.detach().double().cpu() - want.detach().double().cpu()).abs().max())


def row(**values: Any) -> Row:
    """A row with all of `ROW_KEYS`, None where not given, then the bench's own keys."""
    return {**dict.fromkeys(ROW_KEYS), **values}


def add_ratios(rows: Iterable[Row], same: Sequence[str], dense: str = "dense") -> None:
    """Fill `ratio_to_dense`: time of the fastest measured row of arm `dense` over this row's time.

    Args:
        same: keys in which a row and its dense rows agree, such as visual_tokens, dtype and device.
    """
    rows = [r for r in rows if r["median_us"] is not None]
    fastest: dict[tuple, float] = {}
    for r in rows:
        if r["arm"] == dense:
            key = tuple(r[name] for name in same)
            fastest[key] = min(fastest.get(key, float("inf")), r["median_us"])
    for r in rows:
        base = fastest.get(tuple(r[name] for name in same))
        r["ratio_to_dense"] = None if base is None else base / r["median_us"]


def markdown_table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Rows as a Markdown table.

    Args:
        columns: key → heading. Times in µs, bytes and errors are formatted by the key's ending or name; None is "—".
    """
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(r, key) for key in columns) + " |" for r in rows]
    return "\n".join(lines)


def _cell(values: Row, key: str) -> str:
    value = values.get(key)
    if value is None:
        return "—"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if key == "max_error":
        return f"{value:.0e}" if value else "0"
    if key.endswith("_bytes"):
        return f"{value / 2**20:,.1f} MiB"
    if key == "mfu" or key.endswith("_share"):
        return f"{value:.1%}"
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    if key.startswith("ratio"):
        return f"{value:.2f}×"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
