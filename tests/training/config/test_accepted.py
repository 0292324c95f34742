"""Every field of transformers' `TrainingArguments` has its effect or is refused with the reason."""

import dataclasses
from pathlib import Path

import pytest
import transformers

from cambrian_gaze.training.config import accepted
from cambrian_gaze.training.config.accepted import CONDITIONS, IN_EFFECT, REFUSED, known_fields, refusal
from cambrian_gaze.training.config.arguments import TrainingArguments
from cambrian_gaze.training.config.config import ConfigError, load

FIELDS = {field.name: field for field in dataclasses.fields(transformers.TrainingArguments) if field.init}

NOT_IN_ALL = {"activation_checkpointing", "activation_checkpointing_kwargs"}
"""Fields that transformers 5.24 has and 5.17 has not."""

OTHER_VALUES = {
    **{"eval_strategy": "no", "hub_strategy": "end", "include_for_metrics": ["loss"], "label_names": ["labels"]},
    **{"debug": "tpu_metrics_debug", "train_sampling_strategy": "group_by_length", "length_column_name": "tokens"},
    **{"fsdp": "full_shard", "fsdp_config": "fsdp.json", "accelerator_config": '{"split_batches": true}'},
    **{"hub_token": "secret", "hub_model_id": "me/mine", "hub_revision": "main", "hub_private_repo": True},
    **{"eval_accumulation_steps": 2, "optim_target_modules": "all-linear", "parallelism_config": "{}"},
    **{"label_smoothing_factor": 0.1, "liger_kernel_config": {"rope": True}},
}


def test_every_field_stands_in_one_table() -> None:
    assert set(FIELDS) - known_fields() == set(), "say in training/config/accepted.py what becomes of these fields"
    assert known_fields() - set(FIELDS) <= NOT_IN_ALL, "no transformers has these"
    effective = [name for names in IN_EFFECT.values() for name in names]
    assert len(effective) == len(set(effective))
    assert not set(effective) & REFUSED.keys()


def test_a_field_that_no_table_names_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As one that a later transformers adds; with its default value it is in nobody's way."""
    monkeypatch.setattr(accepted, "REFUSED", {k: v for k, v in REFUSED.items() if k != "eval_use_gather_object"})
    TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="eval_use_gather_object: a field of transformers .* does not know"):
        TrainingArguments(output_dir=str(tmp_path), use_cpu=True, eval_use_gather_object=True)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_only_what_is_done_anyway_is_taken(name: str) -> None:
    taken, reason = REFUSED[name]
    other = OTHER_VALUES.get(name, not taken[0])
    if name in ("prediction_loss_only", "do_train"):
        other = "maybe"
    for spelling in (other, str(other)):
        assert reason in refusal(name, spelling)
    for value in taken:
        assert refusal(name, value) is None and refusal(name, str(value)) is None or value in (None, [])
    default = FIELDS[name].default if FIELDS[name].default is not dataclasses.MISSING else []
    assert name in ("remove_unused_columns", "logging_nan_inf_filter") or refusal(name, default) is None


CONDITIONAL = [
    ({"fp16": True}, "fp16: without effect here, since it needs a GPU"),
    ({"torch_empty_cache_steps": 2}, "a CPU has no cache"),
    ({"optim": "galore_adamw"}, "parameter groups of its own"),
    ({"optim_args": "momentum=0.9"}, "that optimizer reads none"),
    ({"optim": "sgd", "adam_beta1": 0.8}, "adam_beta1: .* none of Adam's kind"),
    ({"gradient_checkpointing_kwargs": {"use_reentrant": False}}, "gradient_checkpointing is off"),
    ({"torch_compile_mode": "default"}, "torch_compile is off"),
    ({"trackio_space_id": "me/mine"}, "report_to does not name trackio"),
    ({"eval_steps": 5}, "eval_strategy is not steps"),
    ({"eval_on_start": True}, "nothing is evaluated"),
    ({"eval_delay": 5}, "nothing is evaluated"),
    ({"do_eval": True}, "eval_strategy says when"),
    ({"load_best_model_at_end": True}, "nothing is evaluated"),
    ({"metric_for_best_model": "loss"}, "nothing follows a metric"),
    ({"dataloader_persistent_workers": True}, "dataloader_num_workers is 0"),
    ({"dataloader_prefetch_factor": 2}, "dataloader_num_workers is 0"),
    ({"ddp_bucket_cap_mb": 25, "deepspeed": "zero2.json"}, "DeepSpeed takes the place of DDP"),
    ({"local_rank": 3}, "LOCAL_RANK"),
    ({"lr_scheduler_type": "constant", "warmup_steps": 5}, "warmup_steps: .* no warm-up .constant_with_warmup has"),
    ({"lr_scheduler_type": "constant", "warmup_ratio": 0.1}, "warmup_steps: .*--warmup_ratio null"),
    ({"lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": '{"a": 1}'}, "has no options"),
]


@pytest.mark.parametrize(
    ("given", "said"), CONDITIONAL, ids=lambda value: "+".join(value) if type(value) is dict else ""
)
def test_what_has_no_effect_here_is_refused(given: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **given)


def test_every_condition_is_tried_above() -> None:
    tried = {name for given, _ in CONDITIONAL for name in given}
    for condition in CONDITIONS:
        assert set(condition.fields) & tried or condition.fields == ("neftune_noise_alpha",), condition.fields


def test_where_they_have_their_effect_they_are_taken(tmp_path: Path) -> None:
    args = TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=True,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        eval_strategy="steps",
        eval_steps=5,
        eval_delay=5,
        load_best_model_at_end=True,
        save_steps=5,
        metric_for_best_model="loss",
        dataloader_num_workers=1,
        dataloader_prefetch_factor=2,
        ddp_find_unused_parameters=False,
        neftune_noise_alpha=5.0,
    )
    assert dataclasses.replace(args, seed=3).seed == 3, "filled in values are no contradiction"


@pytest.mark.parametrize("flag", ["--use_liger_kernel", '--liger_kernel_config={"rope": true}'])
def test_liger_is_refused_with_what_stands_in_for_it(flag: str, tmp_path: Path) -> None:
    """It would need the package, or change nothing: Liger knows none of this project's models."""
    with pytest.raises(ConfigError) as error:
        load([flag, f"--output_dir={tmp_path}"])
    [line] = str(error.value).splitlines()
    assert "is not offered; Liger" in line and "head and loss in chunks" in line
    load(["--use_liger_kernel=false", "--use_cpu", f"--output_dir={tmp_path}"])
    with pytest.raises(ValueError, match="use_liger_kernel=true is not offered"):
        TrainingArguments(output_dir=str(tmp_path), use_cpu=True, use_liger_kernel=True)


def test_all_refusals_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(["--label_smoothing_factor=0.1", "--push_to_hub", "--fsdp", "full_shard", f"--output_dir={tmp_path}"])
    assert len(str(error.value).splitlines()) == 3
    with pytest.raises(ConfigError) as error:
        load(["--fp16", "--eval_steps=5", "--eval_on_start", "--use_cpu", f"--output_dir={tmp_path}"])
    assert len(str(error.value).splitlines()) == 3
