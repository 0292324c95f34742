"""The quickstart's pages as data for routing accuracy: the masks are the cells."""

from pathlib import Path

import numpy as np
import pytest

from cambrian_gaze.quickstart.digits import PageSpec, build_pages
from cambrian_gaze.quickstart.routing import read_pages
from cambrian_gaze.quickstart.task import ADDRESSES

pytest.importorskip("sklearn")
pytest.importorskip("pycocotools")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "data"
    build_pages(folder, PageSpec(train_pages=1, heldout_pages=2, read_cells=4), progress=False)
    return folder


def test_phrases_are_the_addresses_and_values_of_the_answer(data: Path) -> None:
    from cambrian_gaze.evaluation.routing.masks import read_mask

    records = list(read_pages(data))
    assert len(records) == 2 and records[0].prompt.startswith("Read ")
    for record in records:
        assert [phrase.kind for phrase in record.phrases] == ["address", "value"] * 4
        for phrase in record.phrases:
            ((start, end),) = phrase.spans
            assert record.caption[start:end] == phrase.text
        for address in record.phrases[::2]:
            mask = read_mask(address.masks, (64, 64), data / "images")
            rows, columns = np.nonzero(mask)
            place = ADDRESSES.index(address.text)
            assert mask.sum() == 256 and (rows // 16 == place // 4).all() and (columns // 16 == place % 4).all()
