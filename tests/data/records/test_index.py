"""The row index: equal to a plain reading of the file, kept on disk, shared, and never that of another content."""

import json
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambrian_gaze.data.records import index as index_module
from cambrian_gaze.data.records import places
from cambrian_gaze.data.records.index import build_index, open_index
from cambrian_gaze.data.records.places import FileIdentity, places_beside
from cambrian_gaze.data.records.scan import ArrayScanner, LineScanner
from cambrian_gaze.files import CACHE_VARIABLE

BLOCKS = st.sampled_from([1, 2, 3, 5, 8, 64, 1 << 20])
BLANKS = st.text(" \t\r", max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('ab"\\[]{},\n\té😀\u2028'), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a"\\]', max_size=2), inner, max_size=3),
    max_leaves=8,
)


def rows_of(content: bytes, block_bytes: int, folder: Path) -> tuple[list[bytes], list[int], str]:
    """The bytes of each row, its number, and the kind of file."""
    file = folder / "rows"
    file.write_bytes(content)
    index = build_index(file, FileIdentity.of(file), block_bytes)
    spans = [index.span(i) for i in range(len(index))]
    return [content[start:stop] for start, stop in spans], [index.row(i) for i in range(len(index))], index.kind


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("index")


@given(
    rows=st.lists(st.none() | st.tuples(BLANKS, VALUES, BLANKS, st.booleans()), max_size=12),
    bom=st.booleans(),
    crlf=st.booleans(),
    last_newline=st.booleans(),
    block_bytes=BLOCKS,
)
def test_lines_are_those_of_a_plain_reading(folder, rows, bom, crlf, last_newline, block_bytes):
    lines = []
    for row in rows:
        if row is None:
            lines.append("  ")
        else:
            before, value, after, ascii_only = row
            lines.append(before + json.dumps({"v": value}, ensure_ascii=ascii_only) + after)
    newline = "\r\n" if crlf else "\n"
    content = ("\ufeff" if bom else "") + newline.join(lines) + (newline if last_newline else "")
    content = content.encode()
    found, numbers, kind = rows_of(content, block_bytes, folder)
    plain = [(n, line) for n, line in enumerate(content.split(b"\n"), 1) if line.strip(b" \t\r\n\xef\xbb\xbf")]
    assert kind == "lines" and numbers == [n for n, _ in plain]
    wanted = [json.loads(line.decode("utf-8-sig")) for _, line in plain]
    assert [json.loads(row.decode("utf-8-sig")) for row in found] == wanted


@given(rows=st.lists(VALUES, max_size=6), indent=st.sampled_from([None, 0, 2]), bom=st.booleans(), block_bytes=BLOCKS)
def test_elements_are_those_of_json_load(folder, rows, indent, bom, block_bytes):
    text = ("\ufeff" if bom else "") + " \n" + json.dumps(rows, indent=indent, ensure_ascii=False) + "\r\n "
    found, numbers, kind = rows_of(text.encode(), block_bytes, folder)
    assert kind == "array" and [json.loads(row) for row in found] == rows
    assert numbers == list(range(1, len(rows) + 1))


@given(content=st.binary(max_size=60).map(lambda b: b.replace(b"[", b"")), block_bytes=BLOCKS)
def test_any_bytes_are_lines(folder, content, block_bytes):
    found, _, _ = rows_of(content, block_bytes, folder)
    lines = [line for line in content.split(b"\n") if line.strip(b" \t\r\n\xef\xbb\xbf")]
    assert [row.strip(b" \t\r\n\xef\xbb\xbf") for row in found] == [x.strip(b" \t\r\n\xef\xbb\xbf") for x in lines]


@given(content=st.text(st.sampled_from('[]{},"\\ a'), max_size=40), block_bytes=BLOCKS)
def test_a_damaged_array_is_refused_whatever_the_blocks(content, block_bytes):
    content = ("[" + content).encode()

    def scanned(size):
        blocks = [np.frombuffer(content[i : i + size], np.uint8) for i in range(0, len(content), size)]
        scanner = ArrayScanner()
        try:
            return np.concatenate(list(scanner.scan(blocks))).tolist(), scanner.end
        except ValueError as error:
            return str(error).partition(",")[0]

    assert scanned(block_bytes) == scanned(1 << 20)


@pytest.mark.parametrize(
    ("text", "why"), [("[1, {", "ends within element 2"), ("[1] [2]", "closed before byte 4"), ('["a]', "ends within")]
)
def test_why_an_array_is_refused(text, why, folder):
    with pytest.raises(ValueError, match=why):
        rows_of(text.encode(), 1 << 20, folder)


def test_blank_lines_longer_than_the_common_look():
    content = b" " * 500 + b"\n" + b" " * 500 + b"x\n"
    scanner = LineScanner()
    assert np.concatenate(list(scanner.scan([np.frombuffer(content, np.uint8)]))).tolist() == [501]
    assert scanner.blanks.tolist() == [0]


def write(path: Path, count: int, word: str = "row") -> Path:
    path.write_text("".join(f'{{"{word}": {i}}}\n' for i in range(count)))
    return path


def test_stored_beside_the_data_and_mapped(tmp_path, monkeypatch):
    file = write(tmp_path / "a.jsonl", 1000)
    first = open_index(file, store=True)
    assert first.stored == str(tmp_path / ".a.jsonl.index") and len(first) == 1000
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.jsonl.index", "a.jsonl"]
    monkeypatch.setattr(index_module, "store_index", None)  # it is not built again
    again = open_index(file, store=True)
    assert [again.span(i) for i in range(1000)] == [first.span(i) for i in range(1000)]
    size = len(pickle.dumps(again))
    assert size < 1000, "workers open the stored index, they are not sent the rows"
    assert pickle.loads(pickle.dumps(again)).span(999) == first.span(999)


def test_small_files_leave_no_index(tmp_path):
    open_index(write(tmp_path / "a.jsonl", 10))
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("change", ["longer", "same size and time", "touched", "damaged index", "cut index", "rebuild"])
def test_an_index_of_another_content_is_not_used(tmp_path, change):
    file = write(tmp_path / "a.jsonl", 1000)
    stored = Path(open_index(file, store=True).stored)
    status, before = file.stat(), stored.stat().st_ino
    if change == "longer":
        write(file, 1200)
    elif change == "same size and time":
        write(file, 1000, "wor")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "touched":
        os.utime(file, (1, 1))
    elif change == "damaged index":
        stored.write_bytes(b"x" + stored.read_bytes()[1:])
    elif change == "cut index":
        stored.write_bytes(stored.read_bytes()[:-8])
    found = open_index(file, store=True, rebuild=change == "rebuild")
    assert stored.stat().st_ino != before and len(found) == (1200 if change == "longer" else 1000)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    file, cache = write(tmp_path / "data.jsonl", 100), tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    refused = [str(tmp_path)]
    plain = places.tempfile.TemporaryFile

    def temporary(dir):
        if str(dir) in refused:
            raise PermissionError(13, "Permission denied")
        return plain(dir=dir)

    monkeypatch.setattr(places.tempfile, "TemporaryFile", temporary)
    assert open_index(file, store=True).stored == places_beside(file, "index")[1]
    assert len(list(cache.rglob("*-data.jsonl.index"))) == 1
    refused.append(str(cache / "data"))
    with pytest.raises(ValueError, match=f"no place for what belongs to .*set {CACHE_VARIABLE}"):
        open_index(file, store=True, rebuild=True)


def _open_and_sum(file, results):
    index = open_index(file, store=True)
    results.put((len(index), sum(index.span(i)[0] for i in range(len(index)))))


def test_processes_that_build_at_once(tmp_path):
    file = write(tmp_path / "a.jsonl", 20_000)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_open_and_sum, args=(file, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert len(set(found)) == 1 and found[0][0] == 20_000
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.jsonl.index", "a.jsonl"]


def test_a_file_that_changes_under_the_scan_is_refused(tmp_path, monkeypatch):
    file = write(tmp_path / "a.jsonl", 10)
    identity = FileIdentity.of(file)
    write(file, 11)
    with pytest.raises(OSError, match="changed while it was indexed"):
        build_index(file, identity)
