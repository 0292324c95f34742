"""The configurations of the paper's runs: every one builds on the meta device, trains its parts, and attends to as many
KV entries as its row says; the table in train/README.md lists them."""

import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from cambrian_gaze import CambrianGazeForConditionalGeneration
from cambrian_gaze.gaze.cost import Attended, attended_visual
from cambrian_gaze.training.build import build_shapes
from cambrian_gaze.training.config.config import RunConfig, load
from cambrian_gaze.training.launch.batch import accumulation_steps
from cambrian_gaze.training.optimizer import MODULES, module_of, parameter_groups
from tests.training._runs import ROOT

FOLDER = ROOT / "train" / "configs"
PAPER = sorted(path for path in FOLDER.glob("*.yaml") if "cambrian" in path.stem)
RECIPES = {
    "pretrain": "data_recipes/cambrian_align.yaml",
    "finetune": "data_recipes/cambrian_7m.yaml",
    "finetune_video": "data_recipes/cambrian_s_20pct.yaml",
}


VIDEO_KV = {
    ("4b", "dense"): (128, 18432, None),
    ("4b", "dense_4k"): (28, 4032, None),
    ("4b", "gaze_4k"): (128, 4032, 112),
    ("4b", "gaze_2k"): (128, 2016, 56),
    ("7b", "dense"): (64, 9216, None),
    ("7b", "gaze_1500"): (64, 1512, 42),
    ("7b", "dense_4k"): (28, 4032, None),
    ("7b", "gaze_4k"): (64, 4032, 112),
}
"""Frames, visual KV entries and K as the authors' page is read: 20K, 4K, 4K, 2K of Cambrian-4B, 10K and 1.5K of
Cambrian-7B; the last two rows are this project's."""


class Row(NamedTuple):
    """What a configuration is named after."""

    family: str
    size: str
    compressed: bool
    large: bool
    """512 px."""
    row: str
    """`dense`, `dense_4k`, `gaze_72`, … or nothing (stage 1)."""


def row_of(path: Path) -> Row:
    family, size, rest = re.fullmatch(r"(pretrain|finetune_video|finetune)_cambrian_(4b|7b)_?(\w*)", path.stem).groups()
    compressed = rest.startswith("compressed") or family == "finetune_video"
    large = rest.startswith("512")
    return Row(family, size, compressed, large, rest.removeprefix("compressed").removeprefix("512").removeprefix("_"))


@functools.cache
def load_one(path: Path) -> RunConfig:
    """As a single rank would, on a machine without a GPU."""
    return load([str(path), "--use_cpu", "--no_bf16", "--deepspeed", "null"])


@functools.cache
def shapes_of(path: Path) -> CambrianGazeForConditionalGeneration:
    """The model on the meta device, with its frozen parts."""
    run = load_one(path)
    return build_shapes(run.model, run.gaze, run.training)


def attended(run: RunConfig, gaze, grid: tuple[int, int]) -> Attended:
    frames = run.data.video_max_frames if run.data.video_folder else 1
    return attended_visual([(frames, *grid)], gaze)


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_it_builds_and_is_its_row(path: Path) -> None:
    row, run = row_of(path), load_one(path)
    assert run.data.data_path == [RECIPES[row.family]]
    assert run.training.global_batch_size == (256 if row.family == "finetune_video" else 512)
    assert run.training.stage == (1 if row.family == "pretrain" else 2)
    model = shapes_of(path)
    gaze = model.config.gaze_config

    billions = sum(p.numel() for p in model.model.language_model.parameters()) / 1e9
    assert billions == pytest.approx({"4b": 4.02, "7b": 7.07}[row.size], abs=0.01)
    assert model.config.grid == ((12, 12) if row.compressed else (32, 32) if row.large else (24, 24))
    trained = {module_of(name) for name, p in model.named_parameters() if p.requires_grad}
    expected = {"mm_projector"} if row.family == "pretrain" else set(MODULES) - {"context_tokens"}
    assert trained == expected | (set() if "dense" in row.row else {"context_tokens"})
    groups = parameter_groups(model, run.training, {name for name, p in model.named_parameters() if p.ndim > 1})
    assert {module for group in groups for module in group["modules"]} == trained

    kv = attended(run, gaze, model.config.grid)
    if "dense" in row.row:
        assert gaze.is_dense and kv.context == 0
        assert kv.selected == kv.of
    if row.family == "finetune_video":
        frames, entries, kept = VIDEO_KV[row.size, row.row]
        assert (run.data.video_max_frames, kv.selected, kv.of) == (frames, entries, frames * 144)
    if "dense" in row.row:
        pass
    elif row.family == "finetune_video":
        assert (kv.regions, kv.kept, kv.context) == (frames * 4, kept, frames * 4)
        image = attended_visual([(1, 12, 12)], gaze)
        assert (image.regions, image.selected, image.context) == (16, 54, 4)
    elif row.family == "finetune":
        budget = int(row.row.removeprefix("gaze_"))
        region = 9 if row.compressed else 64 if row.large else 36
        assert (kv.regions, kv.kept, kv.selected) == (16, budget // region, budget)
        assert (kv.context, kv.of) == (4, 16 * region)
    if row.family == "finetune_video":
        per_frame = 144 + gaze.num_context_tokens
        assert run.data.video_max_frames * per_frame + 1024 <= run.data.max_length


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_it_starts_from_a_run_that_exists(path: Path) -> None:
    run = load_one(path)
    assert run.training.output_dir == f"checkpoints/{path.stem}"
    places = {yaml.safe_load(p.read_text())["output_dir"]: p for p in PAPER}
    if row_of(path).family == "finetune":
        parent = places[str(Path(run.model.pretrain_mm_mlp_adapter).parent)]
    elif row_of(path).family == "finetune_video":
        parent = places[run.model.model_name_or_path]
    else:
        return
    names = [{n: p.shape for n, p in shapes_of(file).named_parameters()} for file in (parent, path)]
    assert names[0] == names[1], "its parent's weights fit, context tokens included"


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_batch_divides_over_1_8_and_64_gpus(path: Path) -> None:
    training = load_one(path).training
    per_device, whole = training.per_device_train_batch_size, training.global_batch_size
    assert training.gradient_accumulation_steps == whole // per_device
    assert [accumulation_steps(whole, per_device, n) * per_device * n for n in (1, 8, 64)] == [whole] * 3


@pytest.mark.parametrize("path", sorted(FOLDER.glob("parts/*.yaml")), ids=lambda path: path.stem)
def test_every_value_says_where_it_comes_from(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            assert re.search(r"  # .*\b(paper|authors' page|upstream|ours)\b", line), line


def test_upstream_is_named_for_what_upstream_has() -> None:
    """It has no training of videos, and its code sets no bf16 flag."""
    said = {
        (path.stem, line.split(":")[0]): line.split("#")[1].split(":")[0].strip()
        for path in FOLDER.glob("parts/*.yaml")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "  # " in line
    }
    for name in ("learning_rate", "warmup_ratio", "global_batch_size"):
        assert said["stage2_video", name] == "ours" and said["stage2_image", name] == "upstream"
    assert said["cambrian", "bf16"] == "ours"
    assert {source for (part, _), source in said.items() if "video" in part} <= {"paper", "authors' page", "ours"}


def test_rows_say_which_row_they_are() -> None:
    for path in PAPER:
        assert "paper" in path.read_text(encoding="utf-8").splitlines()[0], path


def test_the_readme_lists_them_all() -> None:
    page = (ROOT / "train" / "README.md").read_text(encoding="utf-8")
    cells = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    listed = {row[0]: row for row in cells if "cambrian_" in row[0] and len(row) == 5}
    named = {name.replace("{4b,7b}", size): name for name in listed for size in ("4b", "7b")}
    assert set(named) == {p.stem for p in PAPER}
    for stem, name in named.items():
        _, _, region, kept, kv_size = listed[name]
        path = FOLDER / f"{stem}.yaml"
        run, model = load_one(path), shapes_of(path)
        gaze = model.config.gaze_config
        kv = attended(run, gaze, model.config.grid)
        if run.training.stage == 1 or gaze.is_dense:
            assert (region, kept) == ("–", "all")
            context = f" + {kv.context}" if kv.context else ""
            assert kv_size == f"{kv.of:,}{context}"
        else:
            budget = gaze.video if run.data.video_folder else gaze.image
            assert region == "{}×{}×{}".format(*budget.region_size[1:], budget.region_size[0])
            assert kept == f"{kv.kept} of {kv.regions}"
            assert kv_size == f"{kv.selected:,} + {kv.context} of {kv.of:,}"
