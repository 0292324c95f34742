"""`cambrian-gaze bench data`: the index and its memory, records, pictures and videos per worker, padding of packs.

Everything is measured on files that the bench writes itself, in one process and thread, warm: a run divides its needs
by these rates to find its number of workers. Memory is that of a fresh process that opens the file and nothing else.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]

SECTION = "bench data"
"""Name of this bench's table; its words are in `bench/pages/texts.py`."""

COLUMNS = {
    "arm": "what",
    "case": "on",
    "median_us": "µs each",
    "rate": "rate",
    "resident_bytes": "resident memory",
    "note": "note",
}

QUICK = {"rows": [1000, 20_000], "array_rows": 5000, "seconds": 0.1}
"""Options of `--quick`."""

ACCESSES = 20_000
"""Rows read at random in each file."""

FRAMES = 300
"""Frames of a video, at 30 a second; 10 of them are taken."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 5_000_000], help="rows of a JSONL")
    parser.add_argument("--array_rows", type=int, default=1_000_000, help="rows of a JSON array")
    parser.add_argument("--seconds", type=float, default=3.0, help="time per rate, at most")
    parser.add_argument("--folder", help="where the files are written for a while; default: a temporary folder")


def run(args: argparse.Namespace) -> list[Row]:
    """A row per measurement. Raises ValueError for numbers of rows that are not positive."""
    if min([*args.rows, args.array_rows]) < 1:
        raise ValueError(f"--rows and --array_rows must be positive, got {args.rows} and {args.array_rows}")
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        rows = [row for count in args.rows for row in _index_rows(folder, count, "lines")]
        rows += _index_rows(folder, args.array_rows, "array")
        rows += _record_rows(folder, args.seconds)
        rows += _media_rows(folder, args.seconds)
        rows += _padding_rows()
    return [{"device": "cpu", **dict.fromkeys(COLUMNS), **row} for row in rows]


def _index_rows(folder: Path, count: int, kind: str) -> Iterator[Row]:
    from cambrian_gaze.bench.data_files import write_rows

    file = write_rows(folder / "rows.json", count, kind)
    case = f"{kind}: {count:,} rows, {file.stat().st_size / 1e6:,.1f} MB"
    about = {"case": case, "kind": kind, "rows": count, "file_bytes": file.stat().st_size}
    try:
        context = multiprocessing.get_context("spawn")
        built, opened = (_in_a_process(context, file, count) for _ in range(2))
    finally:
        file.unlink()
    seconds = built["open_seconds"]
    rate = f"{built['bytes'] / 1e6 / seconds:,.0f} MB/s"
    yield {"arm": "build the index", **about, "median_us": 1e6 * seconds, "rate": rate} | {
        "resident_bytes": built["peak"],
        "note": f"index of {built['index_bytes'] / 1e6:,.1f} MB",
    }
    each = opened["access_us"]
    note = f"opened in {1e3 * opened['open_seconds']:.1f} ms; slowest of {ACCESSES:,}: {opened['slowest_us']:,.0f} µs"
    yield {"arm": "read a row at random", **about, "median_us": each, "rate": f"{1e6 / each:,.0f} rows/s"} | {
        "resident_bytes": opened["peak"],
        "open_us": 1e6 * opened["open_seconds"],
        "slowest_us": opened["slowest_us"],
        "note": note,
    }


def _in_a_process(context: Any, file: Path, count: int) -> dict[str, float]:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_open_and_read, args=(str(file), count, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError as error:
        raise ValueError(f"the process that opened {file} ended early; is there enough memory?") from error
    finally:
        process.join()


def _open_and_read(file: str, count: int, results: Any) -> None:
    """In a fresh process: open the records, read some at random, report times and memory."""
    from cambrian_gaze.data.records.index import open_index
    from cambrian_gaze.data.records.records import Records

    began = time.perf_counter()
    index = open_index(file, store=True)
    open_seconds = time.perf_counter() - began
    records = Records(file, index)
    times = []
    for row in np.random.default_rng(0).integers(0, count, ACCESSES).tolist():
        began = time.perf_counter()
        records[row]
        times.append(time.perf_counter() - began)
    results.send(
        {
            "open_seconds": open_seconds,
            "bytes": index.identity.size,
            "index_bytes": Path(str(index.stored)).stat().st_size,
            "access_us": 1e6 * float(np.median(times)),
            "slowest_us": 1e6 * max(times),
            "peak": peak_resident(),
        }
    )


def peak_resident() -> int | None:
    """Most bytes that this process has had in memory, shared files included; None where the system does not say.

    `getrusage` will not do: a child begins with its parent's peak.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _record_rows(folder: Path, seconds: float) -> Iterator[Row]:
    from cambrian_gaze.bench.data_files import BenchProcessor, write_rows
    from cambrian_gaze.data.conversation import messages_from_record
    from cambrian_gaze.data.encode import encode_conversation
    from cambrian_gaze.data.records.records import read_records

    records = read_records(write_rows(folder / "records.jsonl", 2000, "lines"))
    processor = BenchProcessor.tiny()
    case = "a question and an answer about an image"

    def encode(i: int) -> None:
        grids = [(1, *processor.grid_hw)]
        encode_conversation(messages_from_record(records[i]), processor.tokenizer, grids, processor.num_context_tokens)

    yield _rate("parse a record", case, "records/s", records.__getitem__, len(records), seconds)
    yield _rate("parse and encode a record", case, "records/s", encode, len(records), seconds)


def _media_rows(folder: Path, seconds: float) -> Iterator[Row]:
    from cambrian_gaze.bench.data_files import BenchProcessor, write_images, write_videos
    from cambrian_gaze.data.media.frame_sampling import DECODERS, FrameSampling
    from cambrian_gaze.data.media.image_files import load_image
    from cambrian_gaze.data.media.video import load_frames

    processor = BenchProcessor.tiny()
    images = write_images(folder, 8)

    def image(i: int) -> None:
        processor.preprocess_images([load_image(images[i], folder)])

    yield _rate("decode and preprocess an image", "JPEG, 640 × 480", "images/s", image, len(images), seconds)
    case = f"H.264, 640 × 480, {FRAMES} frames, 10 taken"
    if importlib.util.find_spec("av") is None:
        yield {"arm": "decode a video", "case": case, "note": "the extra pyav, which writes the files, is missing"}
        return
    videos = write_videos(folder, 2, FRAMES)
    for backend in DECODERS:
        module = {"decord": "decord", "pyav": "av"}[backend]
        for timeout, where in ((0.0, "in the worker"), (120.0, "in a process of its own")):
            arm = f"decode a video, {backend}, {where}"
            if importlib.util.find_spec(module) is None:
                yield {"arm": arm, "case": case, "note": f"{module} is not installed"}
                continue
            sampling = FrameSampling(video_backend=backend, video_timeout=timeout)

            def video(i: int, sampling: FrameSampling = sampling) -> None:
                load_frames(videos[i], folder, sampling)

            yield _rate(arm, case, "videos/s", video, len(videos), seconds)


def _padding_rows() -> Iterator[Row]:
    from cambrian_gaze.bench.data_files import mixed_lengths
    from cambrian_gaze.data.mixture.packing import pack

    lengths, capacity = mixed_lengths(100_000), 12_288
    case = f"{len(lengths):,} samples of text, images and 8 to 64 frames; rows of {capacity:,}"
    each = lengths.reshape(-1, 8)
    padded = 1 - lengths.sum() / (each.max(1) * 8).sum()
    began = time.perf_counter()
    packs = pack(np.arange(len(lengths)), lengths, capacity, seed=0)
    each_us = 1e6 * (time.perf_counter() - began) / len(lengths)
    share = 1 - lengths.sum() / (len(packs) * capacity)
    yield {"arm": "pack samples", "case": case, "median_us": each_us, "rate": f"{share:.2%} padding"} | {
        "packed_share": float(share),
        "padded_share": float(padded),
        "note": f"{padded:.1%} where eight samples are padded to the longest",
    }


def _rate(arm: str, case: str, unit: str, call: Callable[[int], Any], count: int, seconds: float) -> Row:
    """Median time of `call(i)` for i below `count`, over and over until `seconds` have passed; two warm-up calls."""
    for i in range(2):
        call(i % count)
    times, begin, number = [], time.perf_counter(), 0
    while number < 3 or time.perf_counter() - begin < seconds:
        since = time.perf_counter()
        call(number % count)
        times.append(time.perf_counter() - since)
        number += 1
    each = 1e6 * float(np.median(times))
    return {"arm": arm, "case": case, "median_us": each, "rate": f"{1e6 / each:,.0f} {unit}"}
