"""What GazeBench says is what its pictures show."""

import json
from collections import Counter

import pytest
from PIL import Image

from cambrian_gaze.data.records.records import read_records
from cambrian_gaze.evaluation.scorers.gazebench import right_values
from cambrian_gaze.gazebench.make import make
from cambrian_gaze.gazebench.mask import mask_pictures
from cambrian_gaze.gazebench.samples import read_samples
from cambrian_gaze.gazebench.scenes import cell_of, name_of, regions_of
from cambrian_gaze.gazebench.spec import FAMILIES, GazeBenchSpec
from cambrian_gaze.viz.gazebench import samples_page
from tests.gazebench._reader import answer, read_cells

SPEC = GazeBenchSpec(glyph=16, wording="terse", hops=5, reads=3, frames=3, validation=1, test=5, train=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "gazebench"
    assert make(path, SPEC, progress=False)
    return path


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("straddle", [False, True])
def test_the_pixels_give_the_answers(family, straddle, tmp_path):
    spec = GazeBenchSpec(
        families=(family,), glyph=16, wording="terse", hops=7, frames=3, test=3, validation=0, straddle=straddle, seed=3
    )
    make(tmp_path / "bench", spec, progress=False)
    for sample in read_samples(tmp_path / "bench", "test", 3):
        shift = 16 if straddle else 0
        assert answer(sample.row, list(sample.frames), 16, shift) == sample.row["answer"]
        assert all(right_values(sample.row["answer"], sample.row["meta"]))


def test_rows_go_on_over_frames(tmp_path):
    """A letter says which row of which frame; behind Z there are two, and a cell has room for both."""
    spec = GazeBenchSpec(families=("video",), glyph=16, wording="terse", hops=12, frames=8, test=3, validation=0)
    make(tmp_path / "bench", spec, progress=False)
    words = set()
    for sample in read_samples(tmp_path / "bench", "test", 3):
        assert answer(sample.row, list(sample.frames), 16) == sample.row["answer"]
        assert right_values(sample.row["answer"], sample.row["meta"]) == [True] * 12
        words |= set(sample.row["answer"].split()[1:-1])
        assert len(set(sample.row["meta"]["choices"])) == 10 + 8 * 16 and words <= set(sample.row["meta"]["choices"])
    assert {len(word) for word in words} == {2, 3}
    largest = GazeBenchSpec(grid=(8, 9), frames=9)
    cells = [(frame, place) for frame in range(9) for place in range(72)]
    names = [name_of(largest, cell) for cell in cells]
    assert [cell_of(largest, name) for name in names] == cells
    assert (names[0], names[71], names[72], names[-1]) == ("A1", "H9", "I1", "BT9")


@pytest.mark.parametrize("family", FAMILIES)
def test_blank_regions_lose_the_word_that_is_read_from_them(family, folder):
    """Each word with regions cannot be read once they are painted over; the others do not change."""
    sample = next(one for one in read_samples(folder, "test", 1) if one.row["family"] == family)
    words = sample.row["meta"]["answer_regions"]
    assert " ".join(one["text"] for one in words) == sample.row["answer"]
    for place, one in enumerate(words):
        if not one["regions"]:
            continue
        frames = [frame.copy() for frame in sample.frames]
        for region in one["regions"]:
            frame, cell = divmod(region, 16)
            row, column = divmod(cell, 4)
            frames[frame].paste((255, 255, 255), (column * 32, row * 32, column * 32 + 32, row * 32 + 32))
        try:
            seen = answer(sample.row, frames, 16).split()
        except KeyError:  # a name that cannot be read leads nowhere
            continue
        if family in ("count", "absent"):
            assert read_cells(frames, 16) != read_cells(list(sample.frames), 16)
        else:
            assert len(seen) <= place or seen[place] != one["text"]


def test_a_record_is_a_function_of_its_number(folder, tmp_path):
    again = tmp_path / "again"
    make(again, SPEC, progress=False)
    assert not make(again, SPEC, progress=False)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            assert (again / path.relative_to(folder)).read_bytes() == path.read_bytes()
    longer = tmp_path / "longer"
    make(longer, GazeBenchSpec.from_dict({**SPEC.to_dict(), "test": 6}), progress=False)
    for family in FAMILIES:
        lines = [(root / family / "test.jsonl").read_text().splitlines() for root in (folder, longer)]
        assert lines[1][: len(lines[0])] == lines[0] and len(lines[1]) == 6


def test_splits_and_seeds_differ(folder, tmp_path):
    make(tmp_path / "other", GazeBenchSpec.from_dict({**SPEC.to_dict(), "seed": 1}), progress=False)
    rows = {}
    for name, path in {
        "test": folder / "hop/test.jsonl",
        "validation": folder / "hop/validation.jsonl",
        "other": tmp_path / "other/hop/test.jsonl",
    }.items():
        rows[name] = {json.loads(line)["answer"] for line in path.read_text().splitlines()}
    assert not rows["test"] & (rows["validation"] | rows["other"])


def test_records_are_llavas(folder):
    records = list(read_records(folder / "train.jsonl"))
    assert len(records) == 20
    for record in records:
        kind = "video" if record.extra["family"] in ("video", "stream") else "image"
        first = record.conversations[0]["value"]
        assert first.startswith(f"<{kind}>\n")
        assert len(record.conversations) == 2 * len(record.extra["meta"])
        assert (folder / (record.video if kind == "video" else record.images[0])).exists()
    streams = [record for record in records if record.extra["family"] == "stream"]
    assert all(len(record.extra["meta"]) == SPEC.questions for record in streams)


def test_meta_says_where_the_needles_are(folder):
    for line in (folder / "hop" / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        meta, path = row["meta"], row["answer"].split()[1:-1]
        assert meta["needles"] == path and meta["hops"] == len(path) == 5
        assert meta["context_length"] == 16 and meta["num_images"] == 1
        assert meta["placed_depth"] == [("ABCD".index(n[0]) * 4 + int(n[1]) - 1) / 16 for n in path]
        assert [one["regions"] for one in meta["answer_regions"]][:3] == [[], [], [int(meta["placed_depth"][0] * 16)]]


def test_counts_and_absence_are_balanced(tmp_path):
    spec = GazeBenchSpec(families=("count", "absent"), glyph=8, wording="terse", validation=0, test=300)
    make(tmp_path / "bench", spec, progress=False)
    rows = {f: [json.loads(x) for x in (tmp_path / "bench" / f / "test.jsonl").read_text().splitlines()]
            for f in spec.families}  # fmt: skip
    counts = Counter(row["answer"].split()[2] for row in rows["count"])
    assert len(counts) == 9 and max(counts.values()) < 2.2 * 300 / 9
    assert 0.4 < sum(row["answer"].endswith(" _") for row in rows["absent"]) / 300 < 0.6


def test_several_digits_in_one_question(tmp_path):
    spec = GazeBenchSpec(families=("count", "absent"), glyph=16, asked=4, wording="terse", validation=0, test=20)
    make(tmp_path / "bench", spec, progress=False)
    numbers, there = [], 0
    for sample in read_samples(tmp_path / "bench", "test", 40):
        words = sample.row["answer"].split()
        assert words[1::2] == sample.row["question"].split()[1::2] and len(set(words[1::2])) == 4
        assert answer(sample.row, list(sample.frames), 16) == sample.row["answer"]
        assert right_values(sample.row["answer"], sample.row["meta"]) == [True] * 4
        if sample.row["family"] == "count":
            numbers += map(int, words[2::2])
        else:
            there += sum(word != "_" for word in words[2::2])
    assert min(numbers) == 0 and max(numbers) <= 8 and 20 < there < 60


def test_the_question_may_stand_before_the_picture(tmp_path):
    spec = GazeBenchSpec(families=("hop", "stream"), glyph=8, question="before", test=3, validation=0, train=4)
    make(tmp_path / "bench", spec, progress=False)
    for record in read_records(tmp_path / "bench" / "train.jsonl"):
        kind = "video" if record.extra["family"] == "stream" else "image"
        assert record.conversations[0]["value"].endswith(f"\n<{kind}>")
        assert all("<" not in turn["value"] for turn in record.conversations[1:])


def test_boxes_that_straddle_touch_several_regions():
    spec = GazeBenchSpec(glyph=8, straddle=True, regions=(5, 5))
    assert spec.size == (80, 80)
    assert regions_of(spec, 0, (8, 8, 16, 16)) == (0,)
    assert regions_of(spec, 0, (8, 8, 24, 24)) == (0, 1, 5, 6)
    assert regions_of(spec, 2, (64, 64, 80, 80)) == (74,)


def test_a_question_explains_its_page(tmp_path):
    spec = GazeBenchSpec(families=("hop", "count", "video"), glyph=8, frames=3, hops=2, test=1, validation=0)
    make(tmp_path / "bench", spec, progress=False)
    hop, count, video = (one.row["question"] for one in read_samples(tmp_path / "bench", "test", 1))
    page = "a grid of cells: rows {} from the top, columns 1 to 4 from the left. Each cell has a digit at its top left"
    assert hop.startswith(f"The picture is {page.format('A to D')} and names another cell below. Start at cell ")
    assert count.startswith(f"The picture is {page.format('A to D')}. In how many cells ")
    rows = "A to D (frame 1), E to H (frame 2), I to L (frame 3)"
    frames = "The frames of the video show one long page from top to bottom, each"
    assert video.startswith(f"{frames} {page.format(rows)} and names another cell below. Start at cell ")


def test_masked_pictures_lack_the_needles_and_nothing_else(folder):
    masked = mask_pictures(folder, SPEC, "test")
    for sample in read_samples(folder, "test", 5):
        if sample.row["family"] not in ("hop", "read"):
            continue
        with Image.open(masked / sample.row["image"]) as picture:
            seen, whole = read_cells([picture], 16), read_cells(list(sample.frames), 16)
        for name, cell in whole.items():
            assert seen[name] == (("", "") if name in sample.row["meta"]["needles"] else cell)


def test_masked_frames_lack_the_needles(folder):
    masked = mask_pictures(folder, SPEC, "test")
    for sample in read_samples(folder, "test", 5):
        if sample.row["family"] != "video":
            continue
        frames = [Image.open(masked / sample.row["video"] / f"{number}.png") for number in range(SPEC.frames)]
        seen, whole = read_cells(frames, 16), read_cells(list(sample.frames), 16)
        for name, cell in whole.items():
            assert seen[name] == (("", "") if name in sample.row["meta"]["needles"] else cell)


def test_a_page_shows_samples(folder):
    text = samples_page(read_samples(folder, "test", 1))
    assert all(f"test-{family}-0-0" in text for family in FAMILIES)
    assert text.count("<img") == len(FAMILIES) - 2 + 2 * SPEC.frames


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"families": ("hop", "jump")}, "jump"),
        ({"grid": (9, 4)}, "1 to 8 rows"),
        ({"asked": 10}, "asked must be between 1 and 9"),
        ({"hops": 17}, "hops must be between 1 and 16"),
        ({"question": "during"}, "before or after"),
        ({"frames": 10}, "frames"),
    ],
)
def test_knobs_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        GazeBenchSpec(**values)


def test_another_folder_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="no GazeBench"):
        make(tmp_path / "mine", SPEC, progress=False)
