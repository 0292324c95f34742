"""Writes GazeBench to a folder.

Layout, a local copy of a dataset of the hub::

    spec.json               the knobs; a folder of the same knobs is left as it is
    README.md               which file is which configuration and split, for `datasets`
    train.jsonl             LLaVA's records of all families, shuffled
    FAMILY/validation.jsonl, FAMILY/test.jsonl
    media/SPLIT/FAMILY-NUMBER.png, or a folder of frames
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cambrian_gaze.files import new_folder
from cambrian_gaze.gazebench.questions import Asked, ask
from cambrian_gaze.gazebench.scenes import name_of, pictures
from cambrian_gaze.gazebench.spec import FAMILIES, VIDEO_FAMILIES, GazeBenchSpec, row_name

FORMATS = {family: 3 if family in VIDEO_FAMILIES else 2 for family in FAMILIES}
"""Family → number, raised when its files change for the same knobs."""
DATASET = "cambrian-gaze/gazebench"
"""Folder below a data root."""
SCENE = (
    "{what} a grid of cells: rows {rows} from the top, columns 1 to {columns} from the left. Each cell has a digit at "
    "its top left{below}. "
)
STRINGS = "The picture has a row of digits for each of the rows {first} to {last}, from the top. "


def make(folder: str | Path, spec: GazeBenchSpec, progress: bool = True) -> bool:
    """Write the data of `spec` to `folder`, all or nothing.

    Returns: False where the folder already holds it.

    Raises: ValueError where the folder holds something else.
    """
    from tqdm import tqdm

    folder = Path(folder)
    description = {"format": data_format(spec), **spec.to_dict()}
    if folder.exists():
        if not (folder / "spec.json").is_file():
            raise ValueError(f"{folder} exists and is no GazeBench; move it or choose another folder")
        if json.loads((folder / "spec.json").read_text(encoding="utf-8")) == description:
            return False
        shutil.rmtree(folder)
    total = spec.train + (spec.validation + spec.test) * len(spec.families)
    with new_folder(folder) as partial, tqdm(total=total, desc="gazebench", unit="record", disable=not progress) as bar:
        with open(partial / "train.jsonl", "w", encoding="utf-8") as file:
            draw = random.Random(f"{spec.seed} mixture")
            weights = [spec.share.get(family, 1.0) for family in spec.families]
            for number in range(spec.train):
                family = draw.choices(spec.families, weights)[0]
                _write(file, record(partial, spec, "train", family, number))
                bar.update()
        for family in spec.families:
            (partial / family).mkdir()
            for split, count in (("validation", spec.validation), ("test", spec.test)):
                with open(partial / family / f"{split}.jsonl", "w", encoding="utf-8") as file:
                    for row in _rows(partial, spec, split, family, count):
                        _write(file, row)
                        bar.update()
        (partial / "README.md").write_text(_card(spec), encoding="utf-8")
        (partial / "spec.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return True


def data_format(spec: GazeBenchSpec) -> int:
    """The number of the newest of its families' formats."""
    return max(FORMATS[family] for family in spec.families)


def record(folder: Path, spec: GazeBenchSpec, split: str, family: str, number: int) -> dict[str, Any]:
    """One scene as a record of LLaVA's, its pictures written; a `stream` has a turn for each question."""
    scene, asked, medium = _scene(folder, spec, split, family, number)
    kind = "video" if family in VIDEO_FAMILIES else "image"
    turns = []
    for place, one in enumerate(asked):
        text = prompt(spec, family, one)
        if place == 0:
            text = f"<{kind}>\n{text}" if spec.question == "after" else f"{text}\n<{kind}>"
        turns += [{"from": "human", "value": text}, {"from": "gpt", "value": answer(one)}]
    return {
        "id": f"{split}-{family}-{number}", kind: medium, "conversations": turns, "family": family,
        "meta": [meta(spec, family, one, len(scene.frames)) for one in asked],
    }  # fmt: skip


def answer(asked: Asked) -> str:
    """The right answer."""
    return " ".join(word.text for word in asked.words)


def prompt(spec: GazeBenchSpec, family: str, asked: Asked) -> str:
    """The question as the model reads it, without its picture."""
    if spec.wording == "terse":
        return asked.terse
    rows = spec.grid[0]
    if family == "string":
        return STRINGS.format(first=row_name(0), last=row_name(rows - 1)) + asked.full
    below = "" if family in ("count", "absent") else " and names another cell below"
    what, named = "The picture is", f"{row_name(0)} to {row_name(rows - 1)}"
    if family in VIDEO_FAMILIES:
        what = "The frames of the video show one long page from top to bottom, each"
        named = ", ".join(
            f"{row_name(frame * rows)} to {row_name((frame + 1) * rows - 1)} (frame {frame + 1})"
            for frame in range(spec.frames)
        )
    return SCENE.format(what=what, rows=named, columns=spec.grid[1], below=below) + asked.full


def meta(spec: GazeBenchSpec, family: str, asked: Asked, frames: int) -> dict[str, Any]:
    """What MM-NIAH says of a question under its names, and where each word of the answer is read from."""
    cells = len(spec.names) * frames
    return {
        "placed_depth": [round((frame * len(spec.names) + place) / cells, 4) for frame, place in asked.needles],
        "context_length": cells,
        "num_images": frames,
        "needles": [name_of(spec, cell) for cell in asked.needles],
        "choices": list(asked.choices),
        "category": family,
        "hops": asked.hops,
        "grid": list(spec.grid),
        "regions": list(spec.regions),
        "answer_regions": [{"text": word.text, "regions": list(word.regions)} for word in asked.words],
        "given": asked.given,
        "values": [{"name": name, "value": value} for name, value in asked.values],
    }


def _rows(folder: Path, spec: GazeBenchSpec, split: str, family: str, count: int) -> Iterator[dict[str, Any]]:
    """Questions of a split: records of one turn, with the fields that a benchmark reads."""
    number = done = 0
    while done < count:
        whole = record(folder, spec, split, family, number)
        kind = "video" if family in VIDEO_FAMILIES else "image"
        turns = whole["conversations"]
        for place, own in enumerate(whole["meta"][: count - done]):
            question, reply = (turns[2 * place + n]["value"] for n in (0, 1))
            text = question.replace(f"<{kind}>", "").strip()
            shown = f"<{kind}>\n{text}" if spec.question == "after" else f"{text}\n<{kind}>"
            yield {
                "id": f"{whole['id']}-{place}", kind: whole[kind],
                "conversations": [{"from": "human", "value": shown}, {"from": "gpt", "value": reply}],
                "family": family, "group": whole["id"], "question": text, "position": spec.question,
                "answer": reply, "meta": own,
            }  # fmt: skip
            done += 1
        number += 1


def _scene(folder: Path, spec: GazeBenchSpec, split: str, family: str, number: int) -> tuple[Any, list[Asked], str]:
    rng = random.Random(f"{spec.seed} {split} {family} {number}")
    scene, asked = ask(family, spec, rng)
    frames = pictures(spec, scene, rng)
    name = f"media/{split}/{family}-{number:05d}"
    if family in VIDEO_FAMILIES:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for place, frame in enumerate(frames):
            frame.save(folder / name / f"{place}.png", compress_level=1)
        return scene, asked, name
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(folder / f"{name}.png", compress_level=1)
    return scene, asked, f"{name}.png"


def _card(spec: GazeBenchSpec) -> str:
    lines = ["---", "configs:"]
    for family in spec.families:
        lines += [f"- config_name: {family}", "  data_files:"]
        for split in ("validation", "test"):
            if getattr(spec, split):
                lines += [f"  - split: {split}", f"    path: {family}/{split}.jsonl"]
    return "\n".join([*lines, "---", "", "GazeBench, made by `cambrian-gaze gazebench make`; knobs in spec.json.", ""])


def _write(file: Any, value: dict[str, Any]) -> None:
    file.write(json.dumps(value) + "\n")
