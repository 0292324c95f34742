"""The quickstart's data: scikit-learn's handwritten digits composed to pages of 4x4 cells.

Folder layout::

    spec.json        the specification that made the folder; written data is reused where it is the same
    pages.jsonl      one line per page: split, image, digits (16 values), sources (16 indices into the digits set)
    train.jsonl      LLaVA-format records with a fresh question each
    heldout.jsonl    the same form, plus `family`, `target` and `page` for scoring
    images/          one greyscale PNG per page

Held-out pages are made of digit images that no training page shows. Everything is a function of the specification.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cambrian_gaze.extras import require
from cambrian_gaze.files import new_folder
from cambrian_gaze.quickstart.task import ADDRESSES, COLUMNS, ROWS, draw_question

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
"""Raised when the files change for the same specification."""


@dataclass(frozen=True)
class PageSpec:
    """What to compose. A page is `4 * cell_pixels` pixels on a side."""

    train_pages: int = 8000
    heldout_pages: int = 256
    questions_per_page: int = 5
    """Training records per page, each with its own question."""
    count_share: float = 0.2
    """Share of the training records that ask for counts."""
    read_cells: int = 16
    """Cells that a read question asks for."""
    concentration: float = 1.0
    """Of the Dirichlet distribution that each page's shares of the ten digits are drawn from: the smaller, the more
    the counts of a page differ. Over all pages every digit is as frequent."""
    cell_pixels: int = 16
    variants: int = 20
    """Renderings of each training digit: one plain, the others slightly turned, scaled, sheared and shifted."""
    heldout_digits: int = 360
    """Digit images, of 1,797, that only held-out pages show."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.read_cells <= len(ADDRESSES):
            raise ValueError(f"read_cells must be between 1 and {len(ADDRESSES)}, got {self.read_cells}")
        if min(self.train_pages, self.heldout_pages, self.questions_per_page, self.variants, self.cell_pixels) < 1:
            raise ValueError(f"pages, questions, variants and pixels must be at least 1, got {self}")


def build_pages(folder: str | Path, spec: PageSpec, progress: bool = True) -> bool:
    """Write the data of `spec` to `folder`, all or nothing.

    Returns: False where the folder already holds the data of the same specification, else True.

    Raises: ValueError where the folder holds something else than data of this module.
    """
    folder = Path(folder)
    description = {"format": FORMAT, **dataclasses.asdict(spec)}
    if folder.exists():
        if not (folder / "spec.json").is_file():
            raise ValueError(f"{folder} exists and was not written by the quickstart; move it or choose another folder")
        if json.loads((folder / "spec.json").read_text()) == description:
            return False
        shutil.rmtree(folder)
    with new_folder(folder) as partial:
        _write_pages(partial, spec, progress)
        (partial / "spec.json").write_text(json.dumps(description, indent=1) + "\n")
    return True


def load_digits_split(spec: PageSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The digits set and its split.

    Returns: images float32 [1797, 8, 8] in [0, 1]; values int64 [1797]; indices of training and of held-out digits,
    every value in the same share on both sides.
    """
    import numpy as np

    digits = require("sklearn.datasets", "quickstart").load_digits()
    train, heldout = require("sklearn.model_selection", "quickstart").train_test_split(
        np.arange(len(digits.target)), test_size=spec.heldout_digits, stratify=digits.target, random_state=spec.seed
    )
    return digits.images.astype("float32") / 16.0, digits.target, np.sort(train), np.sort(heldout)


def render_digits(images: np.ndarray, pixels: int, variants: int, rng: np.random.Generator) -> np.ndarray:
    """Scale [N, 8, 8] images in [0, 1] to uint8 [N, variants, pixels, pixels]; the first variant is plain."""
    import numpy as np
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    count = len(images)
    source = torch.from_numpy(images)[:, None]
    rendered = []
    for variant in range(variants):
        turn, scale_x, scale_y, shear, shift_x, shift_y = rng.uniform(-1, 1, (6, count)) * (variant > 0)
        theta = np.zeros((count, 2, 3), dtype="float32")
        theta[:, 0, 0] = np.cos(0.2 * turn) * (1 + 0.12 * scale_x)
        theta[:, 0, 1] = -np.sin(0.2 * turn) + 0.12 * shear
        theta[:, 1, 0] = np.sin(0.2 * turn)
        theta[:, 1, 1] = np.cos(0.2 * turn) * (1 + 0.12 * scale_y)
        theta[:, 0, 2] = 0.16 * shift_x
        theta[:, 1, 2] = 0.16 * shift_y
        grid = affine_grid(torch.from_numpy(theta), [count, 1, pixels, pixels], align_corners=False)
        rendered.append(grid_sample(source, grid, align_corners=False)[:, 0])
    stacked = torch.stack(rendered, dim=1).clamp(0, 1)
    return (stacked * 255).round().to(torch.uint8).numpy()


def _write_pages(folder: Path, spec: PageSpec, progress: bool) -> None:
    import numpy as np
    from tqdm import tqdm

    images, values, train, heldout = load_digits_split(spec)
    rng = np.random.default_rng(spec.seed)
    banks = {
        "train": (train, render_digits(images[train], spec.cell_pixels, spec.variants, rng), spec.train_pages),
        "heldout": (heldout, render_digits(images[heldout], spec.cell_pixels, 1, rng), spec.heldout_pages),
    }
    questions = random.Random(spec.seed)
    bar = tqdm(total=spec.train_pages + spec.heldout_pages, desc="pages", unit="page", disable=not progress)
    with bar, open(folder / "pages.jsonl", "w", encoding="utf-8") as pages:
        for split, (members, bank, count) in banks.items():
            (folder / "images" / split).mkdir(parents=True)
            by_digit = [np.flatnonzero(values[members] == digit) for digit in range(10)]
            with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as records:
                for number in range(count):
                    wanted = rng.choice(10, size=16, p=rng.dirichlet([spec.concentration] * 10))
                    places = rng.integers(0, [len(by_digit[digit]) for digit in wanted])
                    chosen = np.array([by_digit[d][place] for d, place in zip(wanted, places, strict=True)])
                    variants = rng.integers(0, bank.shape[1], 16)
                    sources = members[chosen]
                    digits = values[sources].tolist()
                    page = {"split": split, "image": f"{split}/{number:05d}.png", "digits": digits}
                    _save_page(folder / "images" / page["image"], bank[chosen, variants])
                    _write_line(pages, {**page, "sources": sources.tolist()})
                    for record in _records(page, f"{split}-{number:05d}", digits, spec, questions):
                        _write_line(records, record)
                    bar.update()


def _save_page(path: Path, cells: np.ndarray) -> None:
    """Save cells uint8 [16, pixels, pixels] as one page."""
    from PIL import Image

    pixels = cells.shape[-1]
    page = cells.reshape(len(ROWS), len(COLUMNS), pixels, pixels).transpose(0, 2, 1, 3)
    Image.fromarray(page.reshape(len(ROWS) * pixels, len(COLUMNS) * pixels)).save(path, compress_level=1)


def _records(
    page: dict[str, Any], name: str, digits: list[int], spec: PageSpec, rng: random.Random
) -> list[dict[str, Any]]:
    """The LLaVA-format records of one page."""
    if page["split"] == "train":
        families = ["count" if rng.random() < spec.count_share else "read" for _ in range(spec.questions_per_page)]
    else:
        families = ["read", "count"]
    questions = [draw_question(digits, family, spec.read_cells, rng) for family in families]
    records = []
    for number, question in enumerate(questions):
        record = {
            "id": f"{name}-{number}",
            "image": page["image"],
            "conversations": [
                {"from": "human", "value": f"<image>\n{question.prompt}"},
                {"from": "gpt", "value": question.answer},
            ],
        }
        if page["split"] == "heldout":
            record.update(family=question.family, target=question.target, page=name)
        records.append(record)
    return records


def _write_line(file: Any, value: dict[str, Any]) -> None:
    file.write(json.dumps(value) + "\n")
