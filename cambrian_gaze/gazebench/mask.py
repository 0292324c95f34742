"""GazeBench's pictures with what the answers need painted over: whoever answers them has not looked at the picture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from PIL import Image

from cambrian_gaze.files import new_folder
from cambrian_gaze.gazebench.scenes import cell_box, cell_of
from cambrian_gaze.gazebench.spec import VIDEO_FAMILIES, GazeBenchSpec


def mask_pictures(data: Path, spec: GazeBenchSpec, split: str) -> Path:
    """Make, once, a folder beside the media of `data` in which the cells named by each question's `needles` are blank.

    Questions of one picture are masked together. Where one thing is looked for, all cells are painted over: that it is
    not seen would be an answer.
    """
    folder = data / f"masked-{split}"
    if folder.is_dir():
        return folder
    with new_folder(folder) as partial:
        for family in spec.families:
            for line in (data / family / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                medium = row.get("image") or row["video"]
                everything = family == "absent"
                names = spec.names if everything else row["meta"]["needles"]
                _mask(data / medium, partial / medium, spec, names, family in VIDEO_FAMILIES)
    return folder


def _mask(source: Path, target: Path, spec: GazeBenchSpec, names: list[str] | tuple[str, ...], video: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        (shutil.copytree if video else shutil.copyfile)(source, target)
    for name in names:
        frame, place = cell_of(spec, name)
        path = target / f"{frame}.png" if video else target
        with Image.open(path) as picture:
            picture.load()
        # The page's own ground: its lightest value stands at the border of any page.
        picture.paste(picture.getextrema()[1], cell_box(spec, place))
        picture.save(path, compress_level=1)
