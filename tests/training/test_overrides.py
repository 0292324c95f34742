"""One class holds all overrides of transformers' Trainer, in the order in which a run meets them."""

import ast
import functools
from pathlib import Path

import pytest
from transformers import Trainer

from cambrian_gaze.training import run
from cambrian_gaze.training.config import config
from cambrian_gaze.training.trainer import CambrianTrainer
from tests.training._runs import ROOT, flags

PACKAGE = ROOT / "cambrian_gaze"
OWN = {"_eval_loss"}
"""Helpers of the class that Trainer does not have."""


def overrides() -> list[str]:
    """Methods of the class but its constructor, as they stand in the file."""
    return [name for name, value in vars(CambrianTrainer).items() if callable(value) and name != "__init__"]


def test_every_method_overrides_one_of_trainers_and_the_class_names_it() -> None:
    """A release of transformers that renames one would leave ours without effect."""
    assert {name for name in overrides() if not hasattr(Trainer, name)} == OWN
    assert all(f"`{name}`" in CambrianTrainer.__doc__ for name in set(overrides()) - OWN)


def test_nobody_else_overrides_trainer_or_holds_one() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bases = [base for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases]
        derived = [base for base in bases if isinstance(base, ast.Name) and base.id in ("Trainer", "CambrianTrainer")]
        assert bool(derived) == (path == PACKAGE / "training" / "trainer.py"), path
        if path.is_relative_to(PACKAGE / "training") and path.name not in ("trainer.py", "run.py"):
            taken = [node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)]
            assert "trainer" not in taken, f"{path} knows the trainer"


def test_they_stand_in_the_order_in_which_a_run_meets_them(
    pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that goes on from a checkpoint, evaluates, saves, and loads the best model at its end."""
    options = {"eval_data_path": pages, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 2}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "loss"}
    run.train(config.load(flags(pages, tmp_path, **options)))
    loaded = config.load(flags(pages, tmp_path, **options | {"max_steps": 3}))
    trainer, checkpoint = run.prepare(loaded)
    met: list[str] = []

    def noting(name: str):
        method = getattr(CambrianTrainer, name)

        @functools.wraps(method)
        def noted(*args, **kwargs):
            if name not in met:
                met.append(name)
            return method(*args, **kwargs)

        return noted

    for name in overrides():
        monkeypatch.setattr(CambrianTrainer, name, noting(name))
    assert checkpoint is not None
    run.finish(loaded, trainer, checkpoint)
    assert met == overrides()
