"""What becomes of every field of transformers' `TrainingArguments`: it has its effect, or is refused with the reason.

A field stands in one of three tables. `IN_EFFECT`: any value that the field's type allows. `REFUSED`: only values that
ask for what is done anyway. `CONDITIONS`: effective, but not together with some other choice. A field that an installed
transformers has and no table names is refused unless it has its default (a test, `test_accepted.py`, names it).
Nothing is imported here but what the launcher may wait for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable
from typing import Any

from cambrian_gaze.training.config.flags import boolean

IN_EFFECT: dict[str, tuple[str, ...]] = {
    "the run's length and place": ("output_dir", "num_train_epochs", "max_steps", "resume_from_checkpoint"),
    "batches": ("per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size"),
    "the optimizer's groups": ("learning_rate", "weight_decay", "max_grad_norm"),
    "the schedule of learning rates": ("lr_scheduler_type",),
    "the device and its arithmetic": ("bf16", "tf32", "use_cpu", "torch_compile"),
    "recomputing activations": ("activation_checkpointing", "gradient_checkpointing"),
    "logs": (
        *("logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "log_level"),
        *("log_level_replica", "disable_tqdm", "report_to", "include_num_input_tokens_seen", "run_name"),
        "skip_memory_metrics",
    ),
    "the evaluation's times": ("eval_strategy",),
    "checkpoints": ("save_strategy", "save_steps", "save_total_limit", "save_only_model"),
    "random numbers": ("seed", "data_seed", "full_determinism"),
    "the loader": ("dataloader_drop_last", "dataloader_num_workers", "dataloader_pin_memory"),
    "ranks": ("ddp_backend", "ddp_timeout", "deepspeed"),
}
"""What a field changes → fields that have their effect whatever their value."""

_LOSS_ONLY = "the evaluation measures the loss over its supervised tokens, and keeps no predictions"
_PUSH = "upload the finished model by `cambrian-gaze push`, which writes its card"
_FSDP = (
    "shard with DeepSpeed instead (train/deepspeed/zero2.json): checkpoints, bad steps and learning rates by module "
    "are not made for FSDP"
)
_LIGER = (
    "Liger patches the model families that it knows, and this is none of them; the memory that its fused cross-entropy "
    "saves is saved in any case: training computes head and loss in chunks of tokens, and keeps no logits"
)
_EXACT = "batches follow a plan that resumes exactly, on any number of workers and ranks"

REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "label_smoothing_factor": ((0.0,), "the loss is the cross-entropy of the supervised tokens, without smoothing"),
    "average_tokens_across_devices": ((True,), "the loss is always over the supervised tokens of all ranks"),
    "optim_target_modules": ((None,), "optimizers that choose their own modules (GaLore, APOLLO) are not offered"),
    "bf16_full_eval": ((False,), "an evaluation within training has the training's precision (bf16)"),
    "fp16_full_eval": ((False,), "an evaluation within training has the training's precision (fp16)"),
    "use_cache": ((False,), "a training step keeps no cache; the saved model's own setting stays as it is"),
    "use_liger_kernel": ((False,), _LIGER),
    "liger_kernel_config": ((None, {}), _LIGER),
    "auto_find_batch_size": (
        (False,),
        "it would change the global batch; `cambrian-gaze plan` says what fits, and global_batch_size holds the batch "
        "while per_device_train_batch_size shrinks",
    ),
    "logging_nan_inf_filter": ((False,), "a step whose loss is not finite is left out, counted and logged"),
    "prediction_loss_only": ((False, True), _LOSS_ONLY),
    "eval_do_concat_batches": ((True,), _LOSS_ONLY),
    "eval_use_gather_object": ((False,), _LOSS_ONLY),
    "eval_accumulation_steps": ((None,), _LOSS_ONLY),
    "include_for_metrics": (([], None), _LOSS_ONLY),
    "batch_eval_metrics": ((False,), _LOSS_ONLY),
    "save_on_each_node": ((False,), "all ranks write into one folder that they share"),
    "enable_jit_checkpoint": ((False,), "SIGTERM, SIGUSR1 and Ctrl-C write a checkpoint in any case"),
    "push_to_hub": ((False,), _PUSH),
    "hub_token": ((None,), _PUSH),
    "hub_private_repo": ((None,), _PUSH),
    "hub_model_id": ((None,), _PUSH),
    "hub_strategy": (("every_save",), _PUSH),
    "hub_always_push": ((False,), _PUSH),
    "hub_revision": ((None,), _PUSH),
    "ignore_data_skip": ((False,), "a resumed run begins at its exact position, and reads nothing that lies before"),
    "restore_callback_states_from_checkpoint": (
        (False,),
        "the run's callbacks keep no state, and the stop of the run before would stop this one",
    ),
    "accelerator_config": ((None,), "the loader is this project's own, and Accelerate's options do not reach it"),
    "parallelism_config": ((None,), "sequence_parallel_size shares out long samples, DeepSpeed the states"),
    "dataloader_in_order": ((True,), _EXACT),
    "remove_unused_columns": ((False,), "the collator emits what the model takes"),
    "label_names": ((None,), "the labels are the collator's"),
    "length_column_name": (("length",), "lengths are counted, and kept beside the data"),
    "train_sampling_strategy": (
        ("random", "sequential"),
        "use random or sequential, and packing against padding",
    ),
    "fsdp": ((None, "", [], False), _FSDP),
    "fsdp_config": ((None,), _FSDP),
    "debug": (("", None, [], "underflow_overflow"), "TPUs are not offered; underflow_overflow is"),
    "do_train": ((False, True), "this command trains"),
    "do_predict": ((False,), "`cambrian-gaze answer` answers a file, `cambrian-gaze eval` the benchmarks"),
}
"""Field → the values that are taken, and why no other is."""


@dataclasses.dataclass(frozen=True)
class Condition:
    """Fields that have no effect, or cannot have it, in a run of some kind."""

    fields: tuple[str, ...]
    stands: Callable[[Any], bool]
    """Whether the run's `TrainingArguments` let them have their effect."""
    reason: str


def _word(value: Any) -> str:
    """Of an enum its value."""
    return str(getattr(value, "value", value))


def _evaluates(args: Any) -> bool:
    return _word(args.eval_strategy) != "no" or bool(args.do_eval)


def schedules_by_metric(args: Any) -> bool:
    """Whether the learning rate waits for a metric at every evaluation."""
    return _word(args.lr_scheduler_type) in ("reduce_lr_on_plateau", "greedy")


def follows_a_metric(args: Any) -> bool:
    """Whether anything depends on `metric_for_best_model`."""
    return args.load_best_model_at_end or schedules_by_metric(args) or _word(args.save_strategy) == "best"


def _reports_to(args: Any, name: str) -> bool:
    names = [args.report_to] if isinstance(args.report_to, str) else list(args.report_to or ())
    return name in names or "all" in names


def _has_adam_moments(args: Any) -> bool:
    name = _word(args.optim)
    return any(part in name for part in ("adam", "adema", "lion", "schedule_free"))


def _recomputes(args: Any) -> bool:
    return bool(args.gradient_checkpointing or getattr(args, "activation_checkpointing", None))


_DDP = ("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph")
_WITHOUT_ARGS = (
    *("adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adafactor"),
    *("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "lion_32bit", "lion_8bit"),
    *("paged_lion_32bit", "paged_lion_8bit"),
)
"""Optimizers of which transformers' `optim_args` changes nothing."""
_OWN_GROUPS = ("galore", "apollo", "lomo")

CONDITIONS: tuple[Condition, ...] = (
    Condition(("warmup_steps",),
              lambda a: _word(a.lr_scheduler_type) not in ("constant", "reduce_lr_on_plateau", "greedy"),
              "that lr_scheduler_type has no warm-up (constant_with_warmup has); a file's warmup_ratio is "
              "taken back by --warmup_ratio null"),
    Condition(("lr_scheduler_kwargs",),
              lambda a: _word(a.lr_scheduler_type) not in ("constant", "constant_with_warmup"),
              "that lr_scheduler_type has no options"),
    Condition(("fp16",), lambda a: not a.use_cpu, "it needs a GPU and the run is on the CPU; bf16 works on both"),
    Condition(("torch_empty_cache_steps",), lambda a: not a.use_cpu, "a CPU has no cache to empty"),
    Condition(("optim",), lambda a: not any(name in _word(a.optim) for name in _OWN_GROUPS),
              "it makes parameter groups of its own, and the modules' learning rates would be lost; use an AdamW, Lion "
              "or SGD variant"),
    Condition(("optim_args",), lambda a: _word(a.optim) not in _WITHOUT_ARGS, "that optimizer reads none"),
    Condition(("adam_beta1", "adam_beta2", "adam_epsilon"), _has_adam_moments, "the optimizer is none of Adam's kind"),
    Condition(("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"), _recomputes,
              "gradient_checkpointing is off"),
    Condition(("torch_compile_backend", "torch_compile_mode"), lambda a: bool(a.torch_compile), "torch_compile is off"),
    Condition(("neftune_noise_alpha",), lambda a: a.sequence_parallel_size == 1,
              "the ranks of a sequence-parallel group would add different noise to one sample"),
    Condition(("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
              lambda a: _reports_to(a, "trackio"), "report_to does not name trackio"),
    Condition(("eval_steps",), lambda a: _word(a.eval_strategy) == "steps",
              "eval_strategy is not steps"),
    Condition(("eval_delay", "eval_on_start"), _evaluates, "nothing is evaluated: eval_strategy is no"),
    Condition(("do_eval",), lambda a: _word(a.eval_strategy) != "no",
              "eval_strategy says when eval_data_path is evaluated"),
    Condition(("load_best_model_at_end",), _evaluates, "nothing is evaluated: eval_strategy is no"),
    Condition(("metric_for_best_model", "greater_is_better"), follows_a_metric, "nothing follows a metric: neither "
              "load_best_model_at_end, nor save_strategy best, nor a schedule by a metric"),
    Condition(("dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context"),
              lambda a: a.dataloader_num_workers > 0, "dataloader_num_workers is 0"),
    Condition(_DDP, lambda a: not (a.deepspeed and any(getattr(a, name) for name in _DDP)),
              "DeepSpeed takes the place of DDP"),
    Condition(("local_rank",), lambda a: str(a.local_rank) == os.environ.get("LOCAL_RANK"),
              "the launcher says it by the variable LOCAL_RANK"),
)  # fmt: skip
"""Fields that are effective under a condition."""


def known_fields() -> frozenset[str]:
    """Every field that a table names."""
    effective = [name for names in IN_EFFECT.values() for name in names]
    return frozenset([*effective, *REFUSED, *(name for one in CONDITIONS for name in one.fields)])


def refusal(name: str, value: Any) -> str | None:
    """Why a value, as written or as the dataclass has it, is not taken whatever the others are; or None."""
    if name not in REFUSED:
        return None
    taken, reason = REFUSED[name]
    if any(isinstance(one, bool) for one in taken):
        with contextlib.suppress(ValueError):
            value = boolean(value)
    if any(spelled(value) == spelled(one) for one in taken):
        return None
    return f"{name}={spelled(value)} is not offered; {reason}"


def refusals(args: Any) -> list[str]:
    """Why `args`, before transformers has filled in what follows from others, cannot have all their effects."""
    import transformers

    own = {f.name: f for f in dataclasses.fields(args)}
    # A copy of arguments has what transformers made of them.
    made = {name for name in own if type(getattr(args, name)).__name__ == "AcceleratorConfig"}
    found = [refusal(name, getattr(args, name)) for name in own if name not in made]
    for condition in CONDITIONS:
        given = [name for name in condition.fields if name in own and _given(own[name], getattr(args, name))]
        if given and not condition.stands(args):
            found.append(f"{' and '.join(given)}: without effect here, since {condition.reason}; leave it out")
    unknown = f"a field of transformers {transformers.__version__} that this project does not know; leave it out"
    for field in dataclasses.fields(transformers.TrainingArguments):
        if field.name not in known_fields() and field.init and _given(field, getattr(args, field.name)):
            found.append(f"{field.name}: {unknown}")
    return [text for text in found if text is not None]


def _given(field: dataclasses.Field, value: Any) -> bool:
    default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
    return spelled(value) != spelled(default)


def spelled(value: Any) -> str:
    """A value so that what a file, a flag and the dataclass say of it is the same text."""
    value = getattr(value, "value", value)
    if isinstance(value, (list, tuple)):
        return ",".join(spelled(one) for one in value)
    if value is None:
        return ""
    if isinstance(value, bool) or type(value).__module__ == "torch":
        return str(value).lower()
    text = str(value).strip().lower()
    text = {"yes": "true", "no": "no"}.get(text, text)
    try:
        return repr(float(text))
    except ValueError:
        return text
