"""Which regions a counterfactual arm hides."""

import pytest

from cambrian_gaze.data.records.records import Record
from cambrian_gaze.gazebench.make import record as make_record
from cambrian_gaze.gazebench.spec import FAMILIES, GazeBenchSpec
from cambrian_gaze.studies.steering import STEERINGS, steer, value_regions
from tests.studies.routing._answers import record

HOP = record(("Hop", []), ("B3", []), ("C1", [4]), ("7", [2]))


def test_the_region_of_a_value_and_one_that_none_needs():
    needed, other = steer(HOP, "hide_needed"), steer(HOP, "hide_other")
    assert needed.hidden == ((4,), (2,))[needed.place]
    assert other.place == needed.place and len(other.hidden) == 1 and other.hidden[0] not in (2, 4)
    assert {steer(record(*_words(HOP), name=str(n)), "hide_needed").place for n in range(20)} == {0, 1}


def test_only_these_or_only_the_others():
    assert steer(HOP, "force_needed").hidden == (0, 1, 3, 5, 6, 7, 8, 9)
    assert steer(HOP, "force_other").hidden == (2, 4)


def test_values_that_share_a_region_are_not_hidden_alone():
    shared = record(("Row", []), ("1", [0]), ("2", [0, 1]), ("3", [2]), ("4", [5, 6]))
    assert {steer(record(*_words(shared), name=str(n)), "hide_needed").hidden for n in range(20)} == {(2,)}


@pytest.mark.parametrize("how", STEERINGS)
def test_what_needs_all_regions_is_left_alone(how):
    count = steer(record(("Count", []), ("3", range(10))), how)
    assert count.hidden == () and count.place is None


def test_every_family_can_be_steered(tmp_path):
    spec = GazeBenchSpec(glyph=8, wording="terse", frames=2)
    for family in FAMILIES:
        for number in range(6):
            raw = make_record(tmp_path, spec, "test", family, number)
            for meta in raw["meta"]:
                one = Record(id=raw["id"], conversations=[], extra={"meta": meta, "family": family})
                regions = 16 * meta["num_images"]
                for how in STEERINGS:
                    hidden = steer(one, how).hidden
                    assert set(hidden) < set(range(regions))
                reads = value_regions(one)
                assert len(reads) == len(meta["values"])


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="no steering 'hide'; known: hide_needed"):
        steer(HOP, "hide")
    with pytest.raises(ValueError, match="record 'a' has 0 values, but regions of 2 words"):
        steer(record(*_words(HOP), values=[]), "hide_needed")


def _words(of):
    return [(one["text"], one["regions"]) for one in of.extra["meta"]["answer_regions"]]
