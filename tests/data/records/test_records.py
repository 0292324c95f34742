"""Reading JSON and JSONL, and what is refused."""

import bz2
import gzip
import json
import lzma
import os
import pickle

import pytest

from cambrian_gaze.data.errors import RecordError
from cambrian_gaze.data.records.records import MAX_ROW_BYTES, parse_record, read_records
from tests.data._stand_ins import turns, write_jsonl

GOOD = {"id": 7, "image": "a.png", "conversations": turns("<image>", "hi"), "fps": 2}


def test_jsonl_and_array_give_the_same_records(tmp_path):
    rows = [GOOD, {"conversations": turns("q", "a"), "image": None}, {**GOOD, "image": ["a", "b"], "video": "v.mp4"}]
    lines = write_jsonl(tmp_path / "a.jsonl", rows)
    array = tmp_path / "b.json"
    array.write_text("\n " + json.dumps(rows, indent=1))
    for file, id_of_second in ((lines, "a.jsonl:2"), (array, "b.json:2")):
        records = read_records(file)
        assert len(records) == 3 and [r.id for r in records] == ["7", id_of_second, "7"]
        assert [r.row for r in records] == [1, 2, 3] and records[-1].file == str(file)
        assert [r.images for r in records] == [["a.png"], [], ["a", "b"]]
        assert records[2].video == "v.mp4" and records[0].extra == {"fps": 2}
        assert [r.row for r in records[1:]] == [2, 3]
        with pytest.raises(IndexError, match="record 3 of 3"):
            records[3]


def test_jsonl_with_bom_blank_lines_crlf_and_no_last_newline(tmp_path):
    file = tmp_path / "a.jsonl"
    line = json.dumps(GOOD, ensure_ascii=False).encode()
    file.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n \n" + line)
    assert [r.row for r in read_records(file)] == [1, 4]


def test_jsonl_is_read_from_disk_by_every_process(tmp_path):
    records = read_records(write_jsonl(tmp_path / "a.jsonl", [{**GOOD, "id": i} for i in range(5)]))
    assert records[0].id == "0"
    copy = pickle.loads(pickle.dumps(records))
    child = os.fork()
    if child == 0:
        os._exit(0 if [r.id for r in reversed(records)] == ["4", "3", "2", "1", "0"] else 1)
    assert [r.id for r in records] == [r.id for r in copy] == ["0", "1", "2", "3", "4"]
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("raw", "reason", "remedy"),
    [
        ([1], "a JSON list, not an object", "write {"),
        ({}, '"conversations" is missing', "add"),
        ({"conversations": []}, r"the conversation is empty \(0 turns\)", "delete the row"),
        ({"conversations": ["hi"]}, "turn 1 of 1 lacks", "write it as"),
        ({"conversations": turns("a", "b")[:1] + [{"from": "gpt"}]}, "turn 2 of 2 lacks", "write it as"),
        ({"conversations": turns("a", "\ud800")}, "turn 2 of 2 lacks", "valid Unicode"),
        ({"conversations": [{"from": "narrator", "value": "x"}]}, 'from "narrator"', "human, user, gpt"),
        ({**GOOD, "image": 3}, '"image" is neither', "relative paths"),
        ({**GOOD, "image": ["a.png", ""]}, '"image" is neither', "relative paths"),
        ({**GOOD, "image": [1]}, '"image" is neither', "relative paths"),
        ({**GOOD, "video": [[]]}, '"video" is neither', "relative paths"),
        ({**GOOD, "video": ["a", None]}, '"video" is neither', "relative paths"),
    ],
)
def test_bad_rows_name_file_row_and_remedy(raw, reason, remedy):
    with pytest.raises(RecordError, match=rf"^train\.jsonl, row 12: .*{reason}.*Remedy: .*{remedy}") as caught:
        parse_record(raw, "train.jsonl", 12)
    assert (caught.value.file, caught.value.row) == ("train.jsonl", 12)


def test_a_bad_line_fails_alone(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(GOOD) + '\n{"id": \n' + json.dumps(GOOD) + "\n")
    records = read_records(file)
    assert records[0].id == records[2].id == "7"
    with pytest.raises(RecordError, match=r"a\.jsonl, row 2: the line is not valid JSON .*Remedy: write one"):
        records[1]


@pytest.mark.parametrize(
    ("content", "reason"), [("", "holds no records"), ("[]", "holds no records"), ("[{", "not a valid JSON array")]
)
def test_files_without_records(tmp_path, content, reason):
    file = tmp_path / "a.json"
    file.write_text(content)
    with pytest.raises(RecordError, match=rf"a\.json.*{reason}.*Remedy"):
        read_records(file)


@pytest.mark.parametrize(
    ("pack", "what"),
    [
        (gzip.compress, "compressed by gzip, where JSON is read. Remedy: unpack it: gunzip -k .*a.jsonl"),
        (lzma.compress, "compressed by xz"),
        (bz2.compress, "compressed by bzip2"),
        (lambda rows: b"\x28\xb5\x2f\xfd" + rows, "compressed by Zstandard"),
        (lambda rows: b"PK\x03\x04" + rows, "a ZIP archive"),
        (lambda rows: rows.decode().encode("utf-16"), "text in UTF-16.*iconv"),
        (lambda rows: b"PAR1" + rows, "a Parquet file.*rename"),
        (lambda rows: b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS.*git lfs pull"),
    ],
    ids=["gzip", "xz", "bzip2", "zstd", "zip", "utf-16", "parquet", "lfs"],
)
def test_files_of_another_form_are_told_as_a_whole(tmp_path, pack, what):
    file = tmp_path / "a.jsonl"
    file.write_bytes(pack(json.dumps(GOOD).encode() + b"\n"))
    with pytest.raises(RecordError, match=rf"a\.jsonl is {what}"):
        read_records(file)


def test_a_missing_file(tmp_path):
    with pytest.raises(RecordError, match=r"none\.json: No such file.*Remedy: check the path"):
        read_records(tmp_path / "none.json")


def test_errors_survive_a_process_boundary():
    error = pickle.loads(pickle.dumps(RecordError("bad", "mend", "f", 3)))
    assert str(error) == "f, row 3: bad. Remedy: mend" and error.at("g", 4) is error
    assert str(RecordError("bad").at("g", 4)) == "g, row 4: bad"


LINE = json.dumps(GOOD).encode()


@pytest.mark.parametrize(
    ("row", "reason", "remedy"),
    [
        (b'{"id": "\xff"}', r"not UTF-8 \(invalid start byte at byte \d\)", "convert"),
        (b"\0\0\0", "holds 3 NUL bytes", "download it again"),
        (LINE.replace(b'"a.png"', b'"a\0.png"'), "holds 1 NUL bytes", "download it again"),
        (LINE.replace(b'"fps"', b'"id"'), "the key 'id' stands twice", "delete one"),
        (b'{"conversations": [{"from": "gpt", "from": "human"}]}', "the key 'from' stands twice", "delete one"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply", "flatten"),
        (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply", "flatten"),
        (LINE.replace(b"7", b'"\\ud800"'), '"id" is no valid Unicode', "correct it"),
        (b'{"id": ' + b"9" * 5000 + b"}", "not valid JSON .*digits", "one JSON object per line"),
        (LINE[:-9], "not valid JSON", "one JSON object per line"),
        (b'{"id": "' + b"x" * MAX_ROW_BYTES + b'"}', f"more than {MAX_ROW_BYTES:,}", "files of their own"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
@pytest.mark.parametrize("kind", ["lines", "array"])
def test_a_damaged_row_fails_alone_in_both_forms(tmp_path, kind, row, reason, remedy):
    if kind == "array" and (row[:1] == b"{") != (row[-1:] == b"}"):
        pytest.skip("an array that is cut within an element is refused as a whole")
    file = tmp_path / "a.json"
    parts = [LINE, row, LINE]
    file.write_bytes(b"\n".join(parts) + b"\n" if kind == "lines" else b"[\n" + b",\n".join(parts) + b"\n]")
    records = read_records(file)
    assert len(records) == 3 and records[0].id == records[2].id == "7"
    with pytest.raises(RecordError, match=rf"^{file}, row 2: .*{reason}.*Remedy: .*{remedy}"):
        records[1]


def test_a_half_written_last_line_says_so(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(LINE + b"\n" + LINE[:30])
    records = read_records(file)
    assert records[0].id == "7"
    with pytest.raises(RecordError, match="row 2.*the file ends within it. Remedy: finish or delete it"):
        records[1]


def test_a_file_cut_after_it_was_opened(tmp_path):
    records = read_records(write_jsonl(tmp_path / "a.jsonl", [GOOD] * 5))
    os.truncate(records.file, 200)
    assert records[0].id == "7"
    with pytest.raises(RecordError, match="row 5: the file is shorter than when it was opened"):
        records[4]


def test_a_large_gap_of_blank_lines_is_no_large_row(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(LINE + b"\n" * (MAX_ROW_BYTES + 5) + LINE)
    records = read_records(file)
    assert [records[0].row, records[1].row] == [1, MAX_ROW_BYTES + 6]
