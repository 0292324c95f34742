"""Token types, roles and the ignored label: each number stands in one place."""

import ast
from pathlib import Path

import pytest
import torch

import cambrian_gaze
from cambrian_gaze.gaze import GazeConfig, derive_layout, layout
from cambrian_gaze.gaze.token_types import CONTEXT_TYPE, IGNORED_LABEL, IMAGE_TYPE, TEXT_TYPE, VIDEO_TYPE, VISUAL_TYPES

SOURCES = sorted(Path(cambrian_gaze.__file__).parent.rglob("*.py"))


def test_types_are_those_of_transformers_and_the_loss():
    assert (TEXT_TYPE, IMAGE_TYPE, VIDEO_TYPE, CONTEXT_TYPE) == (0, 1, 2, 3)
    assert VISUAL_TYPES == {"image": IMAGE_TYPE, "video": VIDEO_TYPE}
    assert torch.nn.CrossEntropyLoss().ignore_index == IGNORED_LABEL


@pytest.mark.parametrize(("kind", "grid"), [("image", (1, 1, 2)), ("video", (2, 1, 1))])
def test_roles_are_derived_from_types(kind, grid):
    config = GazeConfig(num_context_tokens=1)
    frames, height, width = grid
    unit = [VISUAL_TYPES[kind]] * (height * width) + [CONTEXT_TYPE]
    types = torch.tensor([[TEXT_TYPE, TEXT_TYPE, *unit * frames]])
    mask = torch.ones_like(types)
    mask[0, 0] = 0
    found = derive_layout(types, mask, torch.tensor([grid]), config)
    unit_roles = [layout.VISUAL] * (height * width) + [layout.CONTEXT]
    assert found.role.tolist() == [[layout.PAD, layout.TEXT, *unit_roles * frames]]
    assert set(found.region_modality.flatten().tolist()) == {VISUAL_TYPES[kind]}


def test_the_ignored_label_has_one_home():
    homes = {
        source.name
        for source in SOURCES
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
        if isinstance(node.operand, ast.Constant) and node.operand.value == 100
    }
    assert homes == {"token_types.py"}
