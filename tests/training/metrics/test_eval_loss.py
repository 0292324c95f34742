"""The evaluation's loss is over all supervised tokens, whatever the batches and ranks."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cambrian_gaze.training.config import config
from cambrian_gaze.training.metrics.eval_loss import LossSum, eval_loader
from cambrian_gaze.training.metrics.log import read_log
from cambrian_gaze.training.run import prepare, train
from tests.training._ranks import launch
from tests.training._runs import ROOT, flags, run, write_data


def uneven(folder: Path, seed: int | None = None) -> Path:
    """Nine records whose answers have 1 to 40 words; `seed` changes their order."""
    data = write_data(folder, list("iitititii"))
    records = [json.loads(line) for line in data.read_text().splitlines()]
    for number, record in enumerate(records):
        record["conversations"][1]["value"] = (
            "Yes" if number % 2 else " ".join(f"{i} is {i * number}" for i in range(13))
        )
    if seed is not None:
        random.Random(seed).shuffle(records)
    data.write_text("\n".join(map(json.dumps, records)) + "\n")
    return data


def loss_of(data: Path, output: Path, **changes: object) -> float:
    options = {"eval_data_path": data, "eval_strategy": "epoch", "save_strategy": "no", "random_k": None, **changes}
    trainer, _ = prepare(config.load(flags(data, output, **options)))
    assert trainer.evaluate()["eval_supervised_tokens"] > 200
    return trainer.evaluate()["eval_loss"]


def test_neither_batch_nor_order_nor_packing_changes_it(tmp_path: Path) -> None:
    data = uneven(tmp_path / "data")
    losses = [loss_of(data, tmp_path / str(size), per_device_eval_batch_size=size) for size in (1, 2, 4, 9, 100)]
    losses.append(loss_of(uneven(tmp_path / "other", seed=1), tmp_path / "order", per_device_eval_batch_size=4))
    losses.append(loss_of(data, tmp_path / "packed", packing=True, per_device_eval_batch_size=4))
    losses.append(loss_of(data, tmp_path / "worker", dataloader_num_workers=1, per_device_eval_batch_size=4))
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-5)


def test_it_is_the_mean_over_tokens(tmp_path: Path) -> None:
    data = uneven(tmp_path / "data")
    options = {"eval_data_path": data, "eval_strategy": "epoch", "save_strategy": "no", "random_k": None}
    trainer, _ = prepare(config.load(flags(data, tmp_path / "run", **options)))
    total, tokens = 0.0, 0
    for row in range(9):
        batch = trainer.data_collator([trainer.eval_dataset[row]])
        labels = batch["labels"][:, 1:]
        inputs = {
            k: batch[k]
            for k in ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "grid_thw")
            if k in batch
        }
        with torch.no_grad():
            logits = trainer.model.eval()(**inputs).logits[:, :-1].double()
        total += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
        )
        tokens += int((labels != -100).sum())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(total) / tokens, rel=1e-5)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_each_row_is_read_by_one_rank_and_all_have_as_many_batches(ranks: int, batch: int) -> None:
    shares = []
    for rank in range(ranks):
        args = SimpleNamespace(
            **{"per_device_eval_batch_size": batch, "world_size": ranks, "process_index": rank, "seed": 0},
            **{"dataloader_num_workers": 0, "dataloader_pin_memory": False, "device": torch.device("cpu")},
        )
        shares.append(list(eval_loader(range(7), list, args)))
    assert len({len(share) for share in shares}) == 1
    assert sorted(row for share in shares for rows in share for row in rows) == list(range(7))


def test_without_a_supervised_token_it_is_not_a_number(caplog: pytest.LogCaptureFixture) -> None:
    assert LossSum(torch.device("cpu")).report()["eval_loss"] != 0
    assert "no supervised token" in caplog.text


def test_a_stream_is_not_evaluated(tmp_path: Path) -> None:
    data = uneven(tmp_path / "data")
    recipe = tmp_path / "data" / "stream.yaml"
    recipe.write_text(f"name: s\nsources:\n  - {{name: a, path: {data}, streaming: true}}\n")
    with pytest.raises(ValueError, match="stream has no end|stream"):
        prepare(config.load(flags(data, tmp_path / "run", eval_data_path=recipe, eval_strategy="epoch")))


def test_data_without_a_strategy_are_evaluated_after_each_epoch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = uneven(tmp_path / "data")
    common = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 5, "save_strategy": "no"}
    train(config.load(flags(data, tmp_path / "run", eval_data_path=data, **common)))
    assert [line["step"] for line in read_log(tmp_path / "run", "eval")] == [2, 4]
    assert config.load(flags(data, tmp_path / "x", eval_data_path=data, eval_steps=3)).training.eval_steps == 3
    config.load(flags(data, tmp_path / "x", eval_data_path=data, eval_strategy="no"))
    assert "eval_data_path is not evaluated" in caplog.text
    with pytest.raises(ValueError, match="eval_strategy steps needs eval_data_path"):
        config.load(flags(data, tmp_path / "x", eval_strategy="steps"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"deepspeed": str(ROOT / "train" / "deepspeed" / "zero2.json")}], ids=["DDP", "ZeRO-2"]
)
def test_ranks_do_not_change_it(tmp_path: Path, changes: dict) -> None:
    data = uneven(tmp_path / "data")
    options = {"eval_data_path": data, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 1, "save_strategy": "no"}
    options |= {"per_device_eval_batch_size": 2, "learning_rate": 0, "mm_projector_lr": 0, "random_k": None, **changes}
    for ranks in (1, 2):
        argv = flags(data, tmp_path / str(ranks), **options)
        assert launch(ranks, run, argv, group_of_one=bool(changes)) == [0] * ranks
    one, two = (read_log(tmp_path / str(ranks), "eval")[0] for ranks in (1, 2))
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-5)
    assert two["eval_supervised_tokens"] == one["eval_supervised_tokens"]
