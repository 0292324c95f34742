"""One process: loss, schedule, logs, checkpoints, quarantine."""

import json
from pathlib import Path

import pytest
import torch
from pytest import LogCaptureFixture
from transformers import AutoModelForImageTextToText, AutoProcessor

from cambrian_gaze.data.quarantine import TooManyQuarantined, read_quarantine
from cambrian_gaze.training import run
from cambrian_gaze.training.checkpoint.checkpoint import MARKER, incomplete_because
from cambrian_gaze.training.checkpoint.projector import EXPORT_NAME
from cambrian_gaze.training.config import config
from cambrian_gaze.training.metrics.log import read_log
from cambrian_gaze.training.trainer import CambrianTrainer
from tests.training._runs import flags, write_data


def train(data: Path, output: Path, **changes: object) -> CambrianTrainer:
    return run.train(config.load(flags(data, output, **{"save_strategy": "no", "random_k": None, **changes})))


def test_gradient_accumulation_changes_nothing(pages: Path, tmp_path: Path) -> None:
    """The loss is normalised over the supervised tokens of the whole step, whatever the micro-batches hold."""
    options = {"max_steps": 3, "train_sampling_strategy": "sequential"}
    train(pages, tmp_path / "whole", per_device_train_batch_size=4, **options)
    train(pages, tmp_path / "parts", per_device_train_batch_size=1, gradient_accumulation_steps=4, **options)
    whole, parts = (read_log(tmp_path / name) for name in ("whole", "parts"))
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in parts] == pytest.approx([line[key] for line in whole], rel=1e-4)


def test_the_log_says_what_was_attended(pages: Path, tmp_path: Path) -> None:
    trainer = train(pages, tmp_path, max_steps=6, peak_tflops=1.0, train_sampling_strategy="sequential")
    lines = read_log(tmp_path)
    schedule = trainer.gaze_schedule.gaze.schedule
    assert [line["keep_ratio"] for line in lines] == [schedule.keep_ratio(step, 6) for step in range(6)]
    assert lines[0]["keep_ratio"] == 1.0
    assert lines[0]["k"] == 16
    assert lines[-1]["k"] == 2
    assert lines[-1]["attended_visual_kv"] == 2
    assert lines[-1]["attended_context_kv"] == 4
    assert lines[-1]["attended_kv_share"] == pytest.approx(6 / 16)
    for key in (
        "lr/decoder",
        "lr/mm_projector",
        "lr/context_tokens",
        "visual_tokens_per_s",
        "text_tokens_per_s",
        "mfu",
    ):
        assert lines[2][key] > 0
    assert lines[2]["lr/decoder"] == pytest.approx(10 * lines[2]["lr/mm_projector"])
    assert lines[2]["mfu"] == pytest.approx(lines[2]["flops_per_s"] / 1e12)


def test_without_a_known_peak_there_is_no_mfu_and_without_progress_k_is_constant(pages: Path, tmp_path: Path) -> None:
    train(pages, tmp_path, max_steps=2, progressive=False)
    for line in read_log(tmp_path):
        assert "mfu" not in line
        assert line["k"] == 2


def test_stage_1_keeps_all_regions_and_exports(pages: Path, tmp_path: Path) -> None:
    trainer = train(pages, tmp_path, stage=1, max_steps=2, save_strategy="steps", save_steps=1, save_total_limit=1)
    assert {line["k"] for line in read_log(tmp_path)} == {16}
    assert not trainer.model.model.vision_tower.training
    assert not trainer.model.model.language_model.training
    assert trainer.model.model.mm_projector.training
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    assert incomplete_because(tmp_path / "checkpoint-2") is None
    assert (tmp_path / "checkpoint-2" / EXPORT_NAME).is_file()
    assert (tmp_path / EXPORT_NAME).is_file()


def test_the_saved_model_is_the_trained_one(pages: Path, tmp_path: Path) -> None:
    trainer = train(pages, tmp_path, max_steps=2)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    saved = model.state_dict()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(saved[name], tensor), name
    assert processor.num_context_tokens == 4
    inputs = processor.apply_chat_template([{"role": "user", "content": "Read B3"}], tokenize=True)
    assert model.generate(**inputs, max_new_tokens=2).shape[1] > inputs["input_ids"].shape[1]


def test_unreadable_samples_are_counted_and_stop_the_run_beyond_the_limit(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", list("iibiiiii"))
    options = {"train_sampling_strategy": "sequential", "max_steps": 4}
    train(data, tmp_path / "goes_on", max_quarantined_share=0.5, **options)
    assert [line["quarantined"] for line in read_log(tmp_path / "goes_on")] == [0, 1, 1, 1]
    assert "2.png" in (tmp_path / "goes_on" / "quarantine.jsonl").read_text()
    with pytest.raises(TooManyQuarantined) as error:
        train(data, tmp_path / "stops", max_quarantined_share=0.1, **options)
    for part in ("1 of 4 samples (25.0%)", "max_quarantined_share=10.0%", "quarantine.jsonl"):
        assert part in str(error.value)


def test_a_run_whose_samples_are_all_too_long_says_so(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", list("iiiiiiii"))
    for steps in (2, 8):
        with pytest.raises(TooManyQuarantined, match="none of the [48] samples seen could be used.*raise max_length"):
            train(data, tmp_path / str(steps), max_length=8, max_steps=steps)
        assert not (tmp_path / str(steps) / "model.safetensors").exists()


def test_media_that_a_recipe_declares_as_missing_do_not_count(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", list("iiiiiiii"))
    for number in (1, 2, 5):
        (data.parent / f"{number}.png").unlink()
    options = {"max_steps": 4, "max_quarantined_share": 0.0, "image_folder": data.parent}
    recipe = tmp_path / "recipe.yaml"
    for declared, order in ((3, "random"), (3, "sequential"), (8, "random")):
        recipe.write_text(f"datasets: [{{path: {data}, expected: {{missing: {declared}}}}}]")
        name = f"{declared}-{order}"
        train(recipe, tmp_path / name, train_sampling_strategy=order, **options)
        assert read_log(tmp_path / name)[-1]["quarantined"] == 3
        assert all(entry["declared"] for entry in read_quarantine(tmp_path / name / "quarantine.jsonl"))
    recipe.write_text(f"datasets: [{{path: {data}, expected: {{missing: 2}}}}]")
    with pytest.raises(TooManyQuarantined, match="1 of 8 .*; 1 of them miss media beyond what the recipe"):
        train(recipe, tmp_path / "stops", **options)
    with pytest.raises(TooManyQuarantined, match="of . samples"):
        train(data, tmp_path / "undeclared", **options)


def test_the_place_of_an_unreadable_sample_is_filled(tmp_path: Path) -> None:
    """By the next row of the plan, whatever the number of workers, and the log says who filled whom."""
    data = write_data(tmp_path / "data", list("iibibbii"))
    options = {"train_sampling_strategy": "sequential", "max_steps": 4, "max_quarantined_share": 0.9}
    train(data, tmp_path / "run", **options)
    train(data, tmp_path / "workers", dataloader_num_workers=2, **options)
    lines, others = (read_log(tmp_path / name) for name in ("run", "workers"))
    assert [line["loss"] for line in lines] == [line["loss"] for line in others]
    assert [(line["quarantined"], line["filled"]) for line in lines] == [(0, 0), (1, 1), (3, 3), (3, 3)]
    end = read_log(tmp_path / "run", "end")[-1]
    assert (end["samples"], end["quarantined"], end["filled"]) == (8, 3, 3)
    quarantined = [(entry["row"], entry["step"]) for entry in read_quarantine(tmp_path / "run" / "quarantine.jsonl")]
    assert quarantined == [(3, 2), (5, 3), (6, 3)]
    for name in ("run", "workers"):
        fills = [json.loads(line) for line in (tmp_path / name / "quarantine.fills.jsonl").read_text().splitlines()]
        by_row = sorted((fill["row"], fill["filled_by"]["row"], fill["step"]) for fill in fills)
        assert by_row == [(3, 4, 2), (5, 7, 3), (6, 7, 3)]


def test_an_excluded_row_is_no_part_of_the_plan(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", list("iibiiiii"))
    options = {"train_sampling_strategy": "sequential", "max_steps": 4, "max_quarantined_share": 0.5}
    train(data, tmp_path / "first", **options)
    listed = tmp_path / "first" / "quarantine.jsonl"
    trainer = train(data, tmp_path / "second", exclude=listed, **options)
    assert [line["quarantined"] for line in read_log(tmp_path / "second")] == [0, 0, 0, 0]
    assert trainer.order.rows.tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert read_log(tmp_path / "second", "end")[-1]["left_out/excluded"] == 1
    with pytest.raises(ValueError, match="none.jsonl cannot be read .*correct the path"):
        train(data, tmp_path / "third", exclude=tmp_path / "none.jsonl")


def test_an_empty_list_excludes_nothing(tmp_path: Path) -> None:
    """As `data check --quarantine` writes it for clean data."""
    data = write_data(tmp_path / "data", list("tttt"))
    (tmp_path / "empty.jsonl").touch()
    trainer = train(data, tmp_path / "run", exclude=tmp_path / "empty.jsonl", max_steps=1)
    assert trainer.order.rows.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("packing", [True, None], ids=["packed", "unpacked"])
def test_over_long_samples_are_counted(tmp_path: Path, packing: bool | None, caplog: LogCaptureFixture) -> None:
    """Rows 2, 5 and 8 have 15 answer tokens, the others 5 or 10."""
    data = write_data(tmp_path / "data", list("ttttttttt"))
    options = {"max_steps": -1, "num_train_epochs": 1, "packing": packing, "max_quarantined_share": 0.5}
    lengths = [len(sample["input_ids"]) for sample in train(data, tmp_path / "all", **options).train_dataset]
    options["max_length"] = max(lengths) - 2
    long = sum(length > options["max_length"] for length in lengths)
    assert long == 3
    end = {}
    for policy in ("quarantine", "drop", "truncate_text"):
        train(data, tmp_path / policy, overlong=policy, **options)
        end[policy] = read_log(tmp_path / policy, "end")[-1]
        logged = read_quarantine(tmp_path / policy / "quarantine.jsonl")
        assert len(logged) == (3 if policy == "quarantine" else 0)
    assert end["truncate_text"]["samples"] == 9 and end["truncate_text"]["overlong"] == 3
    if packing:  # known beforehand, so no part of the plan
        assert end["quarantine"]["samples"] == end["drop"]["samples"] == 6
        assert end["quarantine"]["left_out/overlong"] == end["drop"]["left_out/overlong"] == 3
        train(data, tmp_path / "goes_on", **{**options, "max_quarantined_share": 0.0})
        assert "3 of 9 samples are longer than max_length" in caplog.text
    else:
        train(data, tmp_path / "goes_on", **{**options, "max_quarantined_share": 0.0})  # over-long is no damage
        assert end["quarantine"]["quarantined"] == end["quarantine"]["filled"] == 3
        assert end["drop"]["overlong"] == end["drop"]["filled"] == 3 and end["drop"]["quarantined"] == 0


def test_sampling_by_length_is_refused(pages: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train_sampling_strategy=group_by_length is not offered"):
        train(pages, tmp_path, train_sampling_strategy="group_by_length")


def test_an_evaluation_loss_is_logged(pages: Path, tmp_path: Path) -> None:
    options = {"eval_data_path": pages, "eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 4}
    train(pages, tmp_path, max_steps=2, **options)
    assert read_log(tmp_path, "eval")[0]["eval_loss"] > 0


@pytest.mark.parametrize("stage", [1, 2])
def test_neftune_adds_noise_in_both_stages(pages: Path, tmp_path: Path, stage: int) -> None:
    options = {"max_steps": 1, "stage": stage, "train_sampling_strategy": "sequential"}
    train(pages, tmp_path / "plain", **options)
    trainer = train(pages, tmp_path / "noise", neftune_noise_alpha=50.0, **options)
    losses = [read_log(tmp_path / name)[0]["loss"] for name in ("plain", "noise")]
    assert abs(losses[1] - losses[0]) > 1e-3
    assert not trainer.model.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "constant_with_warmup", "cosine_with_min_lr"])
def test_schedules_of_learning_rates(pages: Path, tmp_path: Path, schedule: str) -> None:
    options = {"max_steps": 4, "lr_scheduler_type": schedule, "warmup_ratio": None}
    if schedule == "reduce_lr_on_plateau":
        options |= {"eval_data_path": pages, "eval_strategy": "steps", "eval_steps": 1}
        options |= {"lr_scheduler_kwargs": '{"patience": 0, "threshold": 1.0}'}
    if schedule == "cosine_with_min_lr":
        options |= {"lr_scheduler_kwargs": '{"min_lr_rate": 0.5}'}
    train(pages, tmp_path, **options)
    rates = [line["lr/decoder"] for line in read_log(tmp_path)]
    assert (rates[-1] < rates[0]) == (schedule != "constant_with_warmup"), rates
    if schedule == "cosine_with_min_lr":
        assert rates[-1] >= 0.5 * rates[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"logging_steps": 10, "save_strategy": "no"},
        {"logging_strategy": "no", "save_strategy": "no"},
        {"logging_strategy": "epoch", "save_strategy": "no"},
        {"logging_steps": 10, "save_strategy": "epoch"},
    ],
)
def test_a_run_shorter_than_its_log_ends_well(pages: Path, tmp_path: Path, changes: dict) -> None:
    assert train(pages, tmp_path, max_steps=2, **changes).state.global_step == 2
    assert (tmp_path / "model.safetensors").is_file()
    assert read_log(tmp_path, "end")[-1]["samples"] == 4


def test_a_short_run_has_checkpoints_on_its_way(pages: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the file says more steps than there are; a flag is left as it is."""
    given = flags(pages, tmp_path / "file", max_steps=24, save_steps=None, logging_steps=12)
    (tmp_path / "run.yaml").write_text("save_steps: 500\n")
    run.train(config.load([str(tmp_path / "run.yaml"), *given]))
    assert sorted(path.name for path in (tmp_path / "file").glob("checkpoint-*")) == [
        *("checkpoint-10", "checkpoint-20", "checkpoint-24")
    ]
    assert "save_steps is 10 instead of 500" in caplog.text
    train(pages, tmp_path / "flag", max_steps=24, save_steps=500, save_strategy="steps", logging_steps=12)
    assert [path.name for path in (tmp_path / "flag").glob("checkpoint-*")] == ["checkpoint-24"]


def test_an_optimizer_that_is_not_installed_is_said_before_training(pages: Path, tmp_path: Path, capsys) -> None:
    assert run.main(flags(pages, tmp_path, optim="grokadamw")) == 2
    assert "pip install grokadamw" in capsys.readouterr().err


def test_the_layer_of_the_tower_is_checked(pages: Path, tmp_path: Path) -> None:
    run.prepare(config.load(flags(pages, tmp_path, mm_vision_select_layer=-1)))
    with pytest.raises(ValueError, match="mm_vision_select_layer -2: the model reads its output after the last norm"):
        run.prepare(config.load(flags(pages, tmp_path, mm_vision_select_layer=-2)))


def test_gradient_checkpointing_changes_nothing(pages: Path, tmp_path: Path) -> None:
    options = {"max_steps": 2, "train_sampling_strategy": "sequential"}
    train(pages, tmp_path / "plain", **options)
    train(pages, tmp_path / "recomputed", gradient_checkpointing=True, **options)
    losses = [[line["loss"] for line in read_log(tmp_path / name)] for name in ("plain", "recomputed")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_named_checkpoint_must_be_whole(pages: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(ValueError, match="cannot be resumed from: it has no complete.json"):
        train(pages, tmp_path, resume_from_checkpoint=tmp_path / "checkpoint-1")


def test_a_run_that_is_extended_follows_the_longer_schedule_at_once(pages: Path, tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 2, "warmup_ratio": None}
    train(pages, tmp_path / "whole", max_steps=6, **options)
    for steps in (4, 6):
        train(pages, tmp_path / "extended", max_steps=steps, **options)
    rates = [[line["lr/decoder"] for line in read_log(tmp_path / name)] for name in ("whole", "extended")]
    assert rates[1][4:] == rates[0][4:] and min(rates[0]) > 0


def test_words_in_the_place_of_a_checkpoint(pages: Path, tmp_path: Path) -> None:
    saves = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    with pytest.raises(ValueError, match="resume_from_checkpoint true: .* no complete checkpoint; leave it out"):
        train(pages, tmp_path / "run", resume_from_checkpoint="true", **saves)
    train(pages, tmp_path / "run", **saves)
    with pytest.raises(ValueError, match="begin from the start.* later checkpoints: checkpoint-1, checkpoint-2"):
        train(pages, tmp_path / "run", resume_from_checkpoint="false", **{**saves, "max_steps": 3})
    longer = train(pages, tmp_path / "run", resume_from_checkpoint="true", **{**saves, "max_steps": 3})
    assert longer.state.global_step == 3 and len(read_log(tmp_path / "run")) == 3


def test_a_run_does_not_begin_before_checkpoints_of_another(pages: Path, tmp_path: Path) -> None:
    saves = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1}
    train(pages, tmp_path / "run", **saves)
    (tmp_path / "run" / "checkpoint-3" / MARKER).unlink()  # Nobody would go on from this one.
    first = tmp_path / "run" / "checkpoint-1"
    for options, message in (
        ({"resume_from_checkpoint": first}, r"begin from \S*checkpoint-1 .step 1.* later checkpoints: checkpoint-2\. "),
        ({"auto_resume": False}, "begin from the start.* later checkpoints: checkpoint-1, checkpoint-2. .*go on"),
    ):
        with pytest.raises(ValueError, match=message):
            train(pages, tmp_path / "run", **saves, **options)
    branch = train(pages, tmp_path / "branch", resume_from_checkpoint=first, **saves)
    assert branch.state.global_step == 3 and not (tmp_path / "branch" / "checkpoint-1").exists()
    (tmp_path / "run" / "checkpoint-2").rename(tmp_path / "checkpoint-2")
    train(pages, tmp_path / "run", resume_from_checkpoint=first, **saves)
    losses = [[line["loss"] for line in read_log(tmp_path / name)][-2:] for name in ("run", "branch")]
    assert losses[0] == losses[1]


def test_a_finished_run_is_not_trained_further(pages: Path, tmp_path: Path) -> None:
    first = train(pages, tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert train(pages, tmp_path, max_steps=2, save_strategy="steps", save_steps=2, logging_steps=2) is None
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert first.state.global_step == 2
    assert list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("*.bin"))


def test_main_reports_a_bad_configuration_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--top_kk=2"]) == 2
    assert "'top_kk'; did you mean 'top_k'?" in capsys.readouterr().err
    assert run.main(["--help_all"]) == 0
    assert "--kv_budget" in capsys.readouterr().out
