"""`CambrianTrainer`: all that a run does otherwise than transformers' Trainer, in the order in which a run meets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, set_seed
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import EvalLoopOutput

from cambrian_gaze.attention.choice.run_choice import in_run
from cambrian_gaze.training import optimizer
from cambrian_gaze.training.callbacks import run_callbacks
from cambrian_gaze.training.checkpoint.model_folder import ModelFolder
from cambrian_gaze.training.checkpoint.pickles import check_checkpoint
from cambrian_gaze.training.checkpoint.resume import is_universal, lowest_able_rank_decides
from cambrian_gaze.training.faults.bad_steps import propagate_nonfinite
from cambrian_gaze.training.metrics.eval_loss import LossSum, eval_loader
from cambrian_gaze.training.metrics.meter import model_inputs
from cambrian_gaze.training.parts import RunOptions, RunParts
from cambrian_gaze.training.sequence import check_same_batches, sequence_group


class CambrianTrainer(Trainer):
    """Trains with this package's `TrainingArguments` a model that takes `gaze`, `return_gaze` and `num_items_in_batch`.

    Every override of transformers' Trainer is here, in the order in which a run meets it; what it does is left to
    parts that do not know Trainer. The loop itself is Trainer's (`_inner_training_loop`, `_run_epoch`).

    A run
        start       `train`: what a checkpoint says goes to the parts; the watchdog begins
        data        `get_train_dataloader`, `set_initial_training_values`, `_init_training_state`: the steps from the
                    position of the checkpoint on
        optimizer   `create_optimizer`, `_load_optimizer_and_scheduler`: a learning rate for each module
        epochs      `_run_epoch`, `_load_rng_state`: the steps that are left of each
        end         `_load_best_model`; then the caller's `save_model`

    A step
        batches     `get_batch_samples`: micro-batches of this rank, and the supervised tokens in those of all ranks
        losses      for each micro-batch `training_step`, in it `compute_loss`, then backward and `floating_point_ops`
        guard       `_get_grad_norm`: a bad step is left without gradients
        update      Trainer's own: clipping, optimizer, learning rates
        log         `log`
        evaluation  `evaluate`, `get_eval_dataloader`, `evaluation_loop`, `_determine_best_metric`
        checkpoint  `_save_checkpoint`, `save_model`
    """

    loss_is_scaled_for_ga = True
    """`compute_loss` divides by the tokens of the whole step; Trainer must not divide by the micro-batches again."""

    def __init__(self, options: RunOptions, **kwargs: Any) -> None:
        """`kwargs`: Trainer's arguments, `model` and `args` among them."""
        self.model_folder = ModelFolder(kwargs["model"], kwargs["args"].stage, options.origin)
        if options.benchmarks is not None and kwargs.get("eval_dataset") is None:
            kwargs["eval_dataset"] = []  # Trainer evaluates nothing without data.
        super().__init__(**kwargs)
        self.order, self.quarantine, self.request = options.order, options.quarantine, options.request
        parts = RunParts(options, self.args, self.model, self.data_collator, self.train_dataset, self.eval_dataset)
        self.data, self.meter, self.guard, self.checkpoints = parts.data, parts.meter, parts.guard, parts.checkpoints
        self.gaze_schedule, self.loss_split, self.probe = parts.gaze_schedule, parts.loss_split, parts.probe
        self.quarantine_limit, self.task_scores = parts.quarantine_limit, parts.task_scores
        self.sequence_group = sequence_group(self.args, self.model)
        self._frozen = optimizer.frozen_parts(self.model)
        self._group_modules: list[list[str]] = []
        self._step_rates: list[float] = []
        if not self.args.disable_tqdm:
            self.remove_callback(ProgressCallback)
        for callback in run_callbacks(parts, options.request, self.args):
            self.add_callback(callback)

    # A run begins

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """`resume_from_checkpoint`: a folder that `checkpoint_to_resume` gave. Raises ValueError where its position
        does not fit the data."""
        if checkpoint := resume_from_checkpoint:
            self.checkpoints.resume_attention(checkpoint)
        if checkpoint and is_universal(checkpoint):
            # The universal form has the trained parameters alone, and the frozen ones must be the checkpoint's too.
            self._load_from_checkpoint(checkpoint)
        try:
            if checkpoint:
                self.guard.load(checkpoint)
            with in_run(self.checkpoints.attention), self.guard.watchdog.watching():
                self.data.resume(checkpoint, self.train_dataset)
                return super().train(resume_from_checkpoint=checkpoint, **kwargs)
        finally:
            self.checkpoints.drop_view()

    def get_train_dataloader(self) -> DataLoader:
        """This rank's micro-batches by the plan of each epoch."""
        return self.data.loader(self.train_dataset, self.data_collator)

    def set_initial_training_values(self, args: Any, dataloader: DataLoader) -> tuple[int, ...]:
        """Epochs, steps of the first, samples of an epoch and of the run, samples of a step, micro-batches of the first
        epoch, steps of the run."""
        run = self.data.begin_run()
        self.checkpoints.fit_interval(run.max_steps)
        samples, batch = len(self.order.rows), run.split.global_batch
        first = run.parts.get(run.epochs.start)
        steps, micro_steps = (first.steps, first.micro_steps) if first else (1, 1)
        return run.epochs.stop, steps, samples, samples * len(run.epochs), batch, micro_steps, run.max_steps

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """The epoch that goes on, and no batches to skip: the loader begins where the run stands."""
        super()._init_training_state(*args, **kwargs)
        return self.data.schedule.epochs.start, 0

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One parameter group per module and kind of weight decay, see `optimizer.parameter_groups`."""
        if self.optimizer is None:
            model = self.model if model is None else model
            kind = self.get_optimizer_cls_and_kwargs(self.args, model)
            decay_names = self.get_decay_parameter_names(model)
            self.optimizer, self._group_modules = optimizer.build_optimizer(kind, model, self.args, decay_names)
        return self.optimizer

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """DeepSpeed has loaded before: the universal form has done its service. The schedule may be longer now."""
        super()._load_optimizer_and_scheduler(checkpoint)
        optimizer.follow_schedule(self.lr_scheduler)
        if checkpoint and is_universal(checkpoint):
            self.checkpoints.drop_universal_form(checkpoint, self.model_wrapped)

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:
        """What is left of an epoch, with the steps of its own plan."""
        part = self.data.begin_epoch(epoch)
        kwargs |= {"steps_in_epoch": part.micro_steps, "num_update_steps_per_epoch": part.steps}
        super()._run_epoch(epoch=epoch, **kwargs)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """The rank's own generators as they were; on another number of ranks new ones."""
        seed = self.checkpoints.new_seed(checkpoint, self.state.global_step)
        if seed is None:
            super()._load_rng_state(checkpoint)
        else:
            set_seed(seed)

    # A step: batches, losses, guard

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The micro-batches of one optimizer step and the supervised tokens in them, over all ranks."""
        with self.meter.waiting():
            batches = self.data.take(epoch_iterator, num_batches, self.guard.watchdog.beat)
        self.guard.expect(batches)
        self.loss_split.assign(batches, self.sequence_group)
        if self.sequence_group is not None:
            check_same_batches(batches, self.sequence_group, device)
        return batches, self.meter.add(batches, device) if batches else None

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Forward and backward of a micro-batch. Its loss is kept apart until the step is known to be good."""
        self.guard.begin_micro_batch(model, self._tr_loss, self.is_deepspeed_enabled)
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.guard.end_micro_batch(loss)
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor | tuple[Tensor, Any]:
        """Sum of the token losses over the *global* number of supervised tokens of the optimizer step.

        Ranks average their gradients, so the loss is multiplied by their number; each rank of a sequence-parallel group
        has the addends of its tokens. A batch without any supervised token has loss zero and takes part in the step.
        """
        groups = inputs.pop("loss_groups", None)
        inputs, state, training = model_inputs(inputs), self.state, model.training
        if training:
            optimizer.set_training_modes(self.model, self._frozen, adds_noise=self.args.neftune_noise_alpha is not None)
            inputs["gaze"] = self.gaze_schedule.config(state.global_step, state.max_steps)
            if num_items_in_batch is not None:
                inputs["num_items_in_batch"] = num_items_in_batch.clamp(min=1)
            inputs["sequence_group"] = self.sequence_group
        looks = training and self.gaze_schedule.counts_at(state.global_step + 1, state.logging_steps)
        wanted = {"return_gaze": looks, "skip_logits": training, "return_token_losses": groups is not None}
        with in_run(self.checkpoints.attention, lowest_able_rank_decides if training else None):
            outputs = model(**inputs, **wanted)
        if groups is not None:
            self.loss_split.add(groups, outputs.token_losses)
        if looks:
            self.gaze_schedule.note(outputs.gaze)
        if training:
            self._step_rates = self.lr_scheduler.get_last_lr()
        loss = propagate_nonfinite(outputs.loss) if training else outputs.loss
        if training and num_items_in_batch is not None:
            loss = loss * self.meter.world_size
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> float:
        """FLOPs of the decoder's matrix products, for `total_flos`; Trainer would count the parameters at each step."""
        return self.meter.flops.per_token * inputs["input_ids"].numel() / self.meter.readers

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Comes after all gradients are there and before the optimizer. Drops those of a bad step."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        verdict = self.guard.judge(norm)
        self.loss_split.end_step(good=verdict is None)
        if verdict is not None:
            self.guard.leave_out(verdict, self.state.global_step + 1, model, self.lr_scheduler, self._tr_loss)
        return norm

    # After a step: log, evaluation, checkpoint

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a training step's logs: learning rates, K, attended KV share, throughput, MFU, padding, quarantined
        samples, bad steps; and to those of the run's end the counts of the whole attempt.

        Raises: TooManyQuarantined beyond `max_quarantined_share`, and where no sample could be used.
        """
        if "loss" in logs:
            logs.update(optimizer.rates_by_module(self._group_modules, self._step_rates))
            logs["keep_ratio"] = self.gaze_schedule.latest_keep_ratio
            logs.update(self.gaze_schedule.report(self.state.global_step, self.state.logging_steps))
            with self.meter.excluded():
                logs.update(self.probe.report(self.model, self.state.global_step))
            logs.update(self.meter.report())
            self.guard.report(logs)
            logs.update(self.loss_split.report())
            logs["bad_steps"] = float(len(self.guard.bad_steps.steps))
        if "train_loss" in logs:
            logs.update(self.meter.summary())
            logs.update({f"left_out/{reason}": float(count) for reason, count in self.order.left_out.items()})
        super().log(logs, start_time)
        if "loss" in logs or "train_loss" in logs:
            self.quarantine_limit.check(self.meter, len(self.order.rows), ended="train_loss" in logs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Under a limit of its own per batch; its time does not count as training."""
        with self.meter.excluded(), in_run(self.checkpoints.attention), self.guard.watchdog.slowly("the evaluation"):
            return super().evaluate(*args, **kwargs)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """This rank's share of the rows, see `eval_loader`."""
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        return eval_loader(self.eval_dataset[data] if isinstance(data, str) else data, self.data_collator, self.args)

    def evaluation_loop(
        self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """The loss over all supervised tokens, where there are data, and the benchmarks' scores; no predictions."""
        samples, step, scores = len(dataloader.dataset), self.state.global_step, self.task_scores
        metrics = self._eval_loss(dataloader, metric_key_prefix) if samples else {}
        if scores is not None and scores.due(step, self.state.max_steps):
            optimizer.take_evaluation_weights(self.optimizer)
            with self.compute_loss_context_manager():
                found = scores.measure(self.model, self.processing_class, step, metric_key_prefix)
            metrics |= found
            samples += scores.benchmarks.questions if found else 0
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=samples)

    def _eval_loss(self, dataloader: DataLoader, prefix: str) -> dict[str, float]:
        """What `LossSum` reports of this rank's batches, by the model as Trainer wraps it for evaluation."""
        model = self._wrap_model(self.model, training=False)
        if not self.accelerator._models and model is self.model and not self.is_deepspeed_enabled:
            model = self.accelerator.prepare_model(model, evaluation_mode=True)
        model.eval()
        optimizer.take_evaluation_weights(self.optimizer)
        self.callback_handler.eval_dataloader = dataloader
        losses = LossSum(self.args.device)
        for batch in dataloader:
            with self.compute_loss_context_manager():
                losses.add(model, self._prepare_inputs(batch))
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        return losses.report(prefix)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """An evaluation in which the benchmarks were not due changes nothing."""
        if self.task_scores and self.task_scores.leaves_open(self.args.metric_for_best_model, metrics):
            return False
        return super()._determine_best_metric(metrics=metrics, trial=trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Trainer's checkpoint, with what the parts keep. Its time does not count as training.

        Raises: NotSavedError where it cannot be written.
        """
        step = self.state.global_step
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{step}"
        whole = self.checkpoints.writing(folder, step, best=lambda: self.state.best_model_checkpoint)
        with self.meter.excluded(), self.guard.watchdog.slowly(f"saving step {step}"), whole:
            super()._save_checkpoint(model, trial)
            self.guard.save(folder)
            self.data.save(folder, step)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Model (or adapter) and processor in Hugging Face's format, and what `ModelFolder` adds."""
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        with self.model_folder.saving(folder, self.state.global_step, self.args.should_save, _internal_call):
            super().save_model(output_dir, _internal_call)

    # A run ends

    def _load_best_model(self) -> None:
        """Where the best one lies is what `trainer_state.json` says, so it is checked as any checkpoint is."""
        check_checkpoint(self.state.best_model_checkpoint)
        super()._load_best_model()
