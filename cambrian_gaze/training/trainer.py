"""`CambrianTrainer`: a trainer with per-module learning rates, Progressive TopK, a loss over all ranks' supervised
tokens, and logs that say what was attended. Which data a step sees is `OrderedTrainer`'s, what becomes of faults
`GuardedTrainer`'s, how it is saved `CheckpointedTrainer`'s."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import EvalLoopOutput

from cambrian_gaze.attention.choice.run_choice import in_run
from cambrian_gaze.data.quarantine import NOTHING_MISSING, ExpectedMissing, TooManyQuarantined
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.models.folders.lineage import write_lineage
from cambrian_gaze.training.adapters import is_adapted, without_peft_card
from cambrian_gaze.training.callbacks import LogAtCheckpoints, LogFile, MeterStart, ProgressLine
from cambrian_gaze.training.checkpoint.projector import EXPORT_NAME, export_projector
from cambrian_gaze.training.checkpoint.resume import lowest_able_rank_decides
from cambrian_gaze.training.checkpointed import CheckpointedTrainer
from cambrian_gaze.training.faults.bad_steps import propagate_nonfinite
from cambrian_gaze.training.keep_ratio import keep_ratio
from cambrian_gaze.training.metrics.eval_loss import eval_loader, measure_loss
from cambrian_gaze.training.metrics.flops import FlopsModel, peak_flops
from cambrian_gaze.training.metrics.gaze_report import gaze_report
from cambrian_gaze.training.metrics.log import LOG_NAME, TrainLog
from cambrian_gaze.training.metrics.meter import Meter
from cambrian_gaze.training.metrics.probe import MassProbe
from cambrian_gaze.training.metrics.task_scores import Benchmarks, TaskScores
from cambrian_gaze.training.optimizer import frozen_parts, parameter_groups
from cambrian_gaze.training.sequence import check_same_batches, sequence_group

FEWEST_SEEN = 100
"""As long as fewer samples were seen, `max_quarantined_share` is of these, or of an epoch that has fewer."""


class CambrianTrainer(CheckpointedTrainer):
    """Takes this package's `TrainingArguments`, and a model with `gaze`, `return_gaze` and `num_items_in_batch`."""

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *args: Any,
        progressive: bool = True,
        max_quarantined_share: float = 1.0,
        expected_missing: ExpectedMissing = NOTHING_MISSING,
        origin: dict[str, Any] | None = None,
        benchmarks: Benchmarks | None = None,
        benchmark_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Args beyond those of `CheckpointedTrainer`, `GuardedTrainer` and `OrderedTrainer`:

        progressive: Progressive TopK in stage 2 (`GazeConfig.schedule`).
        max_quarantined_share: the run stops with a summary beyond it; over-long samples do not count.
        expected_missing: samples without their media that do not count either.
        origin: `parents` and `data` of the lineage beside every model that is saved (`checkpoint/origin.py`).
        benchmarks: answered in each evaluation, or every `benchmark_steps` steps of those (`metrics/task_scores.py`).
        """
        model = kwargs.get("model", args[0] if args else None)
        self._saved_use_cache = getattr(model.config, "use_cache", None)
        if benchmarks is not None and kwargs.get("eval_dataset") is None:
            kwargs["eval_dataset"] = []  # Trainer evaluates nothing without data.
        super().__init__(*args, **kwargs)
        self.task_scores = None if benchmarks is None else TaskScores(self, benchmarks, benchmark_steps)
        self.progressive = progressive
        self.max_quarantined_share = max_quarantined_share
        self.expected_missing = expected_missing
        self.origin = origin
        self.group_modules: list[list[str]] = []
        self._frozen = frozen_parts(self.model)
        self._step_rates: list[float] = []
        self.gaze: GazeConfig = self.model.config.gaze_config
        self._step_config = self.gaze
        self._step_gaze: Any = None
        peak = peak_flops(self.args.device, self.args.peak_tflops)
        readers = self.args.sequence_parallel_size
        self.meter = Meter(FlopsModel.of(self.model), peak, max(1, self.args.world_size), readers)
        self.sequence_group = sequence_group(self.args, self.model)
        if not self.args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(ProgressLine)
        self.probe = MassProbe(self, self.eval_dataset or self.train_dataset, self.args.probe_steps)
        self.add_callback(MeterStart(self.meter))
        self.add_callback(LogAtCheckpoints())
        self.add_callback(LogFile(TrainLog(Path(self.args.output_dir) / LOG_NAME), stage=self.args.stage))

    # Data

    def pack_cost(self, rows: np.ndarray) -> float:
        """FLOPs of a pack."""
        lengths = self.order.lengths[rows].astype(np.float64)
        return self.meter.flops.total(lengths.sum(), (lengths**2).sum(), float(self.order.units[rows].sum()))

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | None]:
        """The micro-batches of one optimizer step and the supervised tokens in them, over all ranks."""
        batches: list[dict[str, Any]] = []
        began = time.perf_counter()
        for batch in itertools.islice(epoch_iterator, num_batches):
            batches.append(batch)
            self.watchdog.beat("a micro-batch")
        self.meter.wait(time.perf_counter() - began)
        self.take_stream_states(batches)
        self.take_samples(batches)
        if self.sequence_group is not None:
            check_same_batches(batches, self.sequence_group, device)
        return batches, self.meter.add(batches, device) if batches else None

    # Optimizer

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One parameter group per module and kind of weight decay, see `optimizer.parameter_groups`."""
        if self.optimizer is None:
            model = self.model if model is None else model
            cls, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            if options.keys() & {"params", "model", "optimizer_dict"}:
                raise ValueError(
                    f"optim={self.args.optim} builds its own parameter groups; use an AdamW or SGD variant"
                )
            groups = parameter_groups(model, self.args, self.get_decay_parameter_names(model))
            if not groups:
                raise ValueError("every parameter is frozen; check tune_mm_mlp_adapter and freeze_backbone")
            self.group_modules = [group["modules"] for group in groups]
            self.optimizer = cls(groups, **options)
        return self.optimizer

    # Loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Sum of the token losses over the *global* number of supervised tokens of the optimizer step.

        Ranks average their gradients, so the loss is multiplied by their number. A batch without any supervised token
        has loss zero and takes part in the step. So it is with the ranks of a sequence-parallel group: each has the
        addends of its tokens. Evaluation is not sequence-parallel, see `evaluation_loop`.
        """
        groups = inputs.pop("loss_groups", None)
        inputs = {key: value for key, value in inputs.items() if key != "samples" and not key.startswith("num_")}
        training = model.training
        if training:
            for part in self._frozen:
                part.eval()
            if self.args.neftune_noise_alpha is not None:  # The noise is added in training mode, frozen or not.
                self.model.get_input_embeddings().train()
            inputs["gaze"] = self._step_config = self._config_of_step()
            if num_items_in_batch is not None:
                inputs["num_items_in_batch"] = num_items_in_batch.clamp(min=1)
            if self.sequence_group is not None:
                inputs["sequence_group"] = self.sequence_group
        looks = training and self._counts_gaze_at(self.state.global_step + 1)
        options = {"return_gaze": looks, "skip_logits": training, "return_token_losses": groups is not None}
        with in_run(self.attention_choice, lowest_able_rank_decides if training else None):
            outputs = model(**inputs, **options)
        if groups is not None:
            self.loss_split.add(groups, outputs.token_losses)
        if looks:
            self._step_gaze = outputs.gaze
        if training:
            self._step_rates = self.lr_scheduler.get_last_lr()
        loss = propagate_nonfinite(outputs.loss) if training else outputs.loss
        if training and num_items_in_batch is not None:
            loss = loss * self.meter.world_size
        return (loss, outputs) if return_outputs else loss

    def keep_ratio(self) -> float:
        """ρ of the current optimizer step, see `keep_ratio.keep_ratio`."""
        state = self.state
        return keep_ratio(self.gaze, self.args.stage, self.progressive, state.global_step, state.max_steps)

    def _config_of_step(self) -> GazeConfig:
        """The model's gaze configuration with the current ρ."""
        ratio = self.keep_ratio()
        if ratio == self._step_config.min_keep_ratio:
            return self._step_config
        return dataclasses.replace(self.gaze, min_keep_ratio=ratio)

    def _counts_gaze_at(self, step: int) -> bool:
        """Whether the attended KV entries of optimizer step `step` (from 1) are counted and logged."""
        every = self.args.gaze_stats_steps * max(1, int(self.state.logging_steps or 1))
        return every > 0 and (step % every == 0 or (step == 1 and self.args.logging_first_step))

    def floating_point_ops(self, inputs: dict[str, Any]) -> float:
        """FLOPs of the decoder's matrix products, for `total_flos`; Trainer would count the parameters at each step."""
        return self.meter.flops.per_token * inputs["input_ids"].numel() / self.meter.readers

    # Logs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a training step's logs: learning rates, K, attended KV share, throughput, MFU, padding, quarantined
        samples; and to those of the run's end the counts of the whole attempt.

        Raises: TooManyQuarantined beyond `max_quarantined_share`.
        """
        if "loss" in logs:
            logs.update({f"lr/{name}": rate for name, rate in self._rates().items()})
            logs["keep_ratio"] = self._step_config.min_keep_ratio
            logs.update(self._gaze_report())
            logs.update(self.probe.report(self.state.global_step))
            logs.update(self.meter.report())
        if "train_loss" in logs:
            logs.update(self.meter.summary())
            logs.update({f"left_out/{reason}": float(count) for reason, count in self.order.left_out.items()})
        super().log(logs, start_time)
        if "loss" in logs:
            self._check_quarantine()

    def _rates(self) -> dict[str, float]:
        """Learning rate of each module in the last step."""
        groups = zip(self.group_modules, self._step_rates, strict=True)
        return {module: float(rate) for modules, rate in groups for module in modules}

    def _gaze_report(self) -> dict[str, float]:
        """What the model counted in the last logged step."""
        gaze, self._step_gaze = self._step_gaze, None
        if not self._counts_gaze_at(self.state.global_step):
            return {}
        return gaze_report(gaze, self.args.device)

    def _check_quarantine(self) -> None:
        seen = self.meter.seen
        # At the start of a run one sample is a large share of few.
        met = max(seen, min(FEWEST_SEEN, len(self.order.rows)))
        undeclared = self.expected_missing.beyond(self.meter.declared, met)
        quarantined = self.meter.damaged + undeclared
        if seen and quarantined > self.max_quarantined_share * met:
            raise TooManyQuarantined(
                f"{quarantined} of {seen} samples ({quarantined / seen:.1%}) could not be used, more than "
                f"max_quarantined_share={self.max_quarantined_share:.1%}"
                + (f"; {undeclared} of them miss media beyond what the recipe declares. " if undeclared else ". ")
                + (f"{self.quarantine.path} says why for each; " if self.quarantine else "")
                + "mend the data, or raise the limit"
            )

    # Evaluation

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """This rank's share of the rows, see `eval_loader`."""
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        return eval_loader(self.eval_dataset[data] if isinstance(data, str) else data, self.data_collator, self.args)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The loss over all supervised tokens, where there are data, and the benchmarks' scores; no predictions."""
        samples = len(dataloader.dataset)
        metrics = measure_loss(self, dataloader, metric_key_prefix) if samples else {}
        if self.task_scores is not None and (scores := self.task_scores.measure(metric_key_prefix)):
            metrics |= scores
            samples += self.task_scores.benchmarks.questions
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=samples)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As Trainer's; an evaluation in which the benchmarks were not due changes nothing."""
        if self.task_scores and self.task_scores.leaves_open(self.args.metric_for_best_model, metrics):
            return False
        return super()._determine_best_metric(metrics=metrics, trial=trial)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As Trainer's; its time does not count as training."""
        began = time.perf_counter()
        try:
            with in_run(self.attention_choice):
                return super().evaluate(*args, **kwargs)
        finally:
            self.meter.exclude(time.perf_counter() - began)

    # Checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Model (or adapter, with its configuration) and processor in Hugging Face's format with their lineage; stage 1
        adds `mm_projector.safetensors`."""
        config, trained_with = self.model.config, getattr(self.model.config, "use_cache", None)
        if self._saved_use_cache is not None:
            config.use_cache = self._saved_use_cache
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        writes_adapter = is_adapted(self.model) and self.args.should_save
        try:
            with without_peft_card(folder) if writes_adapter else contextlib.nullcontext():
                super().save_model(output_dir, _internal_call)
            if writes_adapter:
                config.save_pretrained(folder)
        finally:
            if self._saved_use_cache is not None:
                config.use_cache = trained_with
        if self.args.should_save and not _internal_call:
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; run_config.json says the same
        if self.args.stage == 1 and self.args.should_save:
            export_projector(self.model, folder / EXPORT_NAME, step=self.state.global_step)
        # A sharded save leaves the weights to be gathered later.
        if self.args.should_save and self.origin is not None and any(folder.glob("*.safetensors")):
            write_lineage(folder, f"train, stage {self.args.stage}, step {self.state.global_step}", **self.origin)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As `CheckpointedTrainer`'s; its time does not count as training."""
        began = time.perf_counter()
        with self.watchdog.slowly(f"saving step {self.state.global_step}"):
            super()._save_checkpoint(model, trial)
        self.meter.exclude(time.perf_counter() - began)
