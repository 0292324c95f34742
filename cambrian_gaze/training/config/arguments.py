"""What a training run can be told. Every field is a key of the YAML files in `train/configs` and a command-line flag.

The docstring under a field is its help text. Names are those of LLaVA and Cambrian wherever these have one.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import transformers

from cambrian_gaze.data.media.aspect import check_aspect
from cambrian_gaze.training.config.accepted import refusals
from cambrian_gaze.training.config.gaze_arguments import GazeArguments
from cambrian_gaze.training.config.lora_arguments import LoraArguments
from cambrian_gaze.training.config.task_arguments import TaskArguments
from cambrian_gaze.training.launch.batch import accumulation_steps
from cambrian_gaze.training.launch.group import start_cpu_group
from cambrian_gaze.training.launch.ranks import launched_ranks

ProjectorType = Literal["mlp2x_gelu", "conv3x3_mlp2x_gelu", "avgpool2_mlp2x_gelu", "maxpool2_mlp2x_gelu"]


@dataclass
class ModelArguments:
    """Which model is trained, and which of its parts."""

    model_name_or_path: str | None = None
    """A saved Cambrian-Gaze model, or the language model (Qwen3, Qwen2.5) to start one from."""

    preset: str | None = None
    """`tiny`, `4b` or `7b`: sizes of a fresh model. A `model_name_or_path` brings its own; the rest is the preset's."""

    model_overrides: str | None = None
    """JSON object of options for the preset, such as '{"text_config": {"hidden_size": 96}}'."""

    tokenizer_name_or_path: str | None = None
    """Folder or Hub name of the processor or tokenizer; by default the model's own."""

    vision_tower: str | None = None
    """Weights of a vision tower (SigLIP, CLIP, DINOv2), alone or with its text tower, to load into the model's."""

    mm_projector_type: ProjectorType | None = None
    """Projector of a fresh model. The `conv3x3`, `avgpool2` and `maxpool2` kinds give 4 times fewer visual tokens."""

    mm_vision_select_layer: int | None = None
    """Only checked: which layer of the tower the model reads (its `vision_feature_layer`); -1: all, as the parent."""

    image_aspect_ratio: str | None = None
    """`square` (pictures are stretched to the model's square, as the published models do) or `pad` (padded with the
    mean colour). Default: what the checkpoint was trained with, for a new model `square`."""

    version: Literal["chatml", "qwen", "qwen_2"] = "chatml"
    """Conversation format. Qwen's ChatML is the only one, by any of these names."""

    pretrain_mm_mlp_adapter: str | None = None
    """`mm_projector.safetensors` of a stage 1 run: projector and context tokens."""

    tune_mm_mlp_adapter: bool | None = None
    """Train projector and context tokens (see `tune_context_tokens`) and nothing else. Default: in stage 1."""

    unfreeze_mm_vision_tower: bool = False
    """Train the vision tower too; `mm_vision_tower_lr` is its learning rate."""

    tune_context_tokens: bool = True
    """Train the context tokens' embeddings."""

    freeze_backbone: bool | None = None
    """Keep the language model as it is. Default: in stage 1."""

    attn_implementation: str | None = None
    """Attention of the vision tower (`sdpa`, `eager`). The decoder's is `gaze_backend`."""

    def __post_init__(self) -> None:
        if self.image_aspect_ratio is not None:
            check_aspect(self.image_aspect_ratio)


@dataclass
class DataArguments:
    """Where the samples come from, and what becomes of those that cannot be read."""

    data_path: list[str] | None = None
    """Recipes (YAML, see data_recipes/README.md) and JSON, JSONL or Parquet files in LLaVA's form."""

    eval_data_path: list[str] | None = None
    """As `data_path`, for the loss that `eval_strategy` asks for."""

    image_folder: str = "."
    """Folder that the records' image paths are relative to, where a recipe names none. No path may leave it."""

    video_folder: str | None = None
    """Folder that the records' video paths are relative to; by default `image_folder`."""

    image_position: Literal["first", "as_written"] = "first"
    """Where the pictures of a turn stand: before its text, a line break after each, as LLaVA and Cambrian train; or
    where the record has them. With `first`, a picture without an `<image>` gets one."""

    video_fps: float = 1.0
    """Frames per second that are taken of a video."""

    video_max_frames: int = 64
    """Most frames taken of a video; longer ones are sampled uniformly."""

    video_force_sample: bool = False
    """Always take `video_max_frames` frames, uniformly."""

    video_backend: Literal["auto", "decord", "pyav"] = "auto"
    """Decoder of video files. `auto`: decord where its tables are exact for the file, elsewhere PyAV, which is counted
    and logged. One that is named decodes, or says why it cannot."""

    video_timeout: float = 120.0
    """Seconds that a video file may take, in a process of its own; 0 decodes in the worker, without a limit."""

    max_length: int = 2048
    """Most tokens of a sample, or of a row of packed samples, visual and context tokens included."""

    overlong: Literal["quarantine", "truncate_text", "drop", "fewer_frames"] = "quarantine"
    """What becomes of a longer sample: left out and logged, its text cut at the end, left out and counted, or its video
    sampled again with the most frames that fit. Images are never cut."""

    packing: bool = False
    """Put several samples into each row of a batch, up to `max_length` tokens, without attention between them;
    `per_device_train_batch_size` then counts rows. Tokens are counted once and kept beside the data."""

    exclude: list[str] | None = None
    """JSONL lists of records to leave out from the start, as `cambrian-gaze data check` and training write them."""

    max_pixels: int = 89_478_485
    """Larger images are refused as decompression bombs."""

    max_quarantined_share: float = 0.1
    """The run stops once more than this share of the samples seen was quarantined. What a recipe declares as missing,
    and samples that are too long, do not count."""

    quarantine_log: str | None = None
    """JSONL of quarantined samples; by default `quarantine.jsonl` in `output_dir`."""


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """Every argument of `transformers.TrainingArguments`, and these."""

    stage: Literal[1, 2] = 2
    """1: projector and context tokens, every region kept. 2: full parameter with Progressive TopK."""

    mm_projector_lr: float | None = None
    """Learning rate of the projector; by default `learning_rate`."""

    mm_vision_tower_lr: float | None = None
    """Learning rate of the vision tower; by default `learning_rate`."""

    context_tokens_lr: float | None = None
    """Learning rate of the context tokens; by default the projector's."""

    warmup_ratio: float | None = None
    """Share of the steps that warm up; a `warmup_steps` below 1 means the same."""

    global_batch_size: int | None = None
    """Samples per optimizer step over all ranks: `gradient_accumulation_steps` follows from it. Where it is not given
    it follows from the others."""

    base_batch_size: int | None = None
    """Where given, learning rates are scaled by the square root of the global batch size over this one."""

    nproc_per_node: int = 1
    """Processes that `cambrian-gaze train` starts on this machine, unless it runs under a launcher already."""

    auto_resume: bool = True
    """Continue from the last complete checkpoint in `output_dir`, if there is one."""

    sequence_parallel_size: int = 1
    """Neighbouring ranks that share the tokens of each batch, for long videos. `per_device_train_batch_size` is then
    the batch of such a group. Must divide the number of ranks and the decoder's query and key-value heads."""

    verify_checkpoint: bool = True
    """Before resuming, read the checkpoint and compare the SHA-256 of every file; sizes are compared in any case."""

    save_milestone_steps: int | None = None
    """Keep every checkpoint whose step is a multiple of it, beyond `save_total_limit`. A multiple of `save_steps`."""

    ddp_timeout: int = 600
    """Seconds that a rank waits for the others in a collective operation before it fails."""

    hang_timeout: float = 480.0
    """Seconds that a micro-batch may take before the rank writes its stacks to `output_dir/stacks` and ends with status
    86; the first step, evaluation and saving have 4 times as long. 0: no limit. Less than `ddp_timeout`, so that the
    stacks show whom the others wait for."""

    grad_spike_factor: float = 20.0
    """A step whose gradient norm is more than this many times the median of the last 128 is left out; 0: none is. One
    that is not finite is left out in any case."""

    max_bad_steps: int = 10
    """The run stops once more than this many of the last 1000 steps were left out; `bad_steps.jsonl` names their
    samples."""

    probe_steps: int = 500
    """At logging steps that are a multiple of it, measure on four samples, always the same, how much of dense attention
    lies inside the K regions that the model would choose; 0 never."""

    sample_steps: int = 0
    """Every so many steps, answer one sample with a picture and write where the model looked to `output_dir/samples`,
    and to W&B and TensorBoard where these are on; 0 never."""

    gaze_stats_steps: int = 1
    """Count attended KV entries at every n-th logging step; 0 never."""

    peak_tflops: float | None = None
    """Peak TFLOP/s of one device, for MFU. By default from a table of GPUs; without either, MFU is left out."""

    remove_unused_columns: bool = False
    """The collator emits what the model takes, and counts."""

    logging_nan_inf_filter: bool = False
    """A loss that is not finite is logged as it is."""

    report_to: None | str | list[str] = field(default="none")
    """`wandb`, `tensorboard`, `none`, … `train_log.jsonl` is written in any case."""

    save_strategy: str = "steps"
    """When checkpoints are written: `steps`, `epoch`, `best`, `no`."""

    def __post_init__(self) -> None:
        if self.warmup_ratio is not None:
            if not 0 <= self.warmup_ratio < 1:
                raise ValueError(f"warmup_ratio must be in [0, 1), got {self.warmup_ratio}")
            if self.warmup_steps not in (0, self.warmup_ratio):
                raise ValueError(f"give warmup_ratio ({self.warmup_ratio}) or warmup_steps ({self.warmup_steps})")
            self.warmup_steps = self.warmup_ratio
        if (every := self.save_milestone_steps) is not None and (
            every < 1 or self.save_strategy != "steps" or self.save_steps < 1 or every % self.save_steps
        ):
            raise ValueError(
                f"save_milestone_steps {every} must be a multiple of save_steps, a number of steps, now "
                f"{self.save_steps:g} with save_strategy {self.save_strategy}: no other checkpoints are written"
            )
        self._forward_checkpointing_names()
        for name in ("hang_timeout", "grad_spike_factor", "max_bad_steps", "sample_steps", "probe_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        # Without it Trainer takes ranks without an accelerator for single processes.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        self._check_groups()
        self._accumulate()
        if problems := refusals(self):
            raise ValueError("\n".join(problems))
        if self.use_cpu:
            start_cpu_group(self.ddp_backend, self.ddp_timeout)
        super().__post_init__()

    def _forward_checkpointing_names(self) -> None:
        """`gradient_checkpointing` is the name users know; newer releases of transformers call it otherwise."""
        for old in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):
            new = old.replace("gradient", "activation")
            if hasattr(self, new) and getattr(self, new) is None and getattr(self, old) is not None:
                setattr(self, new, getattr(self, old))

    def _check_groups(self) -> None:
        size, ranks = self.sequence_parallel_size, launched_ranks()
        if size < 1 or ranks % size:
            raise ValueError(
                f"sequence_parallel_size {size} must divide the number of ranks, {ranks}; start a multiple of {size} "
                "ranks (nproc_per_node), or set it to 1"
            )
        if size > 1 and self.include_num_input_tokens_seen not in (False, "no"):
            raise ValueError(
                "include_num_input_tokens_seen would count the tokens of a sequence-parallel group once per rank; set "
                "it to no: train_log.jsonl has tokens per second, counted once"
            )

    def _accumulate(self) -> None:
        """Gradient accumulation from the global batch size, or the latter from the former. The number of ranks is the
        launcher's: Trainer's own is known only once the process group is up, and DeepSpeed reads the steps before."""
        ranks = launched_ranks() // self.sequence_parallel_size
        per_device, steps = self.per_device_train_batch_size, self.gradient_accumulation_steps
        if self.global_batch_size is None:
            self.global_batch_size = per_device * steps * ranks
            return
        needed = accumulation_steps(self.global_batch_size, per_device, ranks)
        if steps not in (1, needed):
            raise ValueError(
                f"global_batch_size {self.global_batch_size} over {ranks} ranks of {per_device} means "
                f"gradient_accumulation_steps {needed}, not {steps}; give one of the two"
            )
        self.gradient_accumulation_steps = needed

    @property
    def data_parallel_size(self) -> int:
        """Batches that a micro-step reads: one per sequence-parallel group, without them one per rank."""
        return max(1, self.world_size) // self.sequence_parallel_size

    @property
    def data_parallel_rank(self) -> int:
        """Which of these batches this rank reads."""
        return self.process_index // self.sequence_parallel_size

    @property
    def device(self) -> torch.device:
        """As transformers', without the number that Accelerate gives a rank's CPU: `torch.load` knows no "cpu:1"."""
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device

    @property
    def learning_rate_factor(self) -> float:
        """sqrt(global batch / `base_batch_size`), 1.0 without the latter (upstream Cambrian's rule)."""
        return 1.0 if self.base_batch_size is None else math.sqrt(self.global_batch_size / self.base_batch_size)


ARGUMENT_CLASSES: tuple[type[Any], ...] = (
    *(ModelArguments, GazeArguments, DataArguments, TrainingArguments),
    *(LoraArguments, TaskArguments),
)
"""What a configuration file may set, in the order in which `config.load` returns them."""
