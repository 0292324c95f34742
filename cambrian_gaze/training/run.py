"""One training run, from its configuration to the saved model. `launch.py` starts it, on several ranks if asked to."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import TrainerCallback, set_seed
from transformers.utils import logging as transformers_logging

from cambrian_gaze.data.quarantine import QuarantineLog
from cambrian_gaze.extras import require
from cambrian_gaze.models.source import NoSuchFolder
from cambrian_gaze.models.writing import write_json
from cambrian_gaze.training import config as configuration
from cambrian_gaze.training.build import build_model
from cambrian_gaze.training.checkpoint import NotSavedError
from cambrian_gaze.training.config import RunConfig
from cambrian_gaze.training.data import build_collator, build_datasets, build_order, expected_missing
from cambrian_gaze.training.layers import ConfigError
from cambrian_gaze.training.origin import origin_of
from cambrian_gaze.training.ranks import start_ranks
from cambrian_gaze.training.requests import StopRequest
from cambrian_gaze.training.resume import checkpoint_to_resume
from cambrian_gaze.training.samples import GazeSamples
from cambrian_gaze.training.summary import write_summary
from cambrian_gaze.training.trainer import CambrianTrainer

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> int:
    """Parse, build, train, save. Returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--help_all" in argv:
        print(configuration.help_text())
        return 0
    try:
        argv = start_ranks(argv)
        values, _ = configuration.gather(argv)
        if values.get("deepspeed"):
            prepare_deepspeed()
        run = configuration.load(argv)
    except ConfigError as error:
        print(f"cambrian-gaze train: {error}", file=sys.stderr)
        return 2
    request = StopRequest()
    with request.listening():
        try:
            train(run, callbacks, request)
        except NotSavedError as error:
            print(f"cambrian-gaze train: {error}", file=sys.stderr)
            return 1
        except NoSuchFolder as error:
            print(f"cambrian-gaze train: {error}", file=sys.stderr)
            return 2
        if dist.is_initialized():
            if request.granted:
                dist.barrier()  # A launcher kills the ranks that are left when the first one ends.
            dist.destroy_process_group()
    if request.granted:
        logger.warning("stopped on request, with a checkpoint; the same command continues")
    return request.granted


def train(
    run: RunConfig, callbacks: Sequence[TrainerCallback] = (), request: StopRequest | None = None
) -> CambrianTrainer:
    """Run a configuration to its end, continuing from the last complete checkpoint. A `request` to stop ends it after
    a step with a checkpoint, and the model is not saved."""
    args = run.training
    if args.process_index > 0:
        quieten()
    checkpoint = checkpoint_to_resume(args)
    set_seed(args.seed)
    model, processor = build_model(run.model, run.gaze, args, run.lora)
    quarantine = QuarantineLog(
        run.data.quarantine_log or Path(args.output_dir) / "quarantine.jsonl",
        args.process_index,
        logs_fills=args.process_index % args.sequence_parallel_size == 0,
    )
    train_data, eval_data = build_datasets(run.data, processor, quarantine)
    trainer = CambrianTrainer(
        model=model,
        args=args,
        train_dataset=train_data,
        eval_dataset=eval_data,
        data_collator=build_collator(run.data, processor),
        order=build_order(run.data, args, train_data, quarantine),
        quarantine=quarantine,
        processing_class=processor,
        callbacks=list(callbacks),
        request=request,
        progressive=run.gaze.progressive,
        max_quarantined_share=run.data.max_quarantined_share,
        expected_missing=expected_missing(train_data, args),
        origin=origin_of(run) if args.should_save else None,
    )
    if trainer.is_world_process_zero():
        write_json(Path(args.output_dir) / "run_config.json", {"values": run.values, "sources": run.sources})
    if args.sample_steps:
        trainer.add_callback(GazeSamples(trainer, eval_data or train_data, processor))
    trainer.train(resume_from_checkpoint=checkpoint)
    if not trainer.request.granted:
        trainer.save_model()
        trainer.save_state()
    if trainer.is_world_process_zero():
        write_summary(args.output_dir)
    return trainer


def quieten() -> None:
    """Leave messages and loading bars to the first rank."""
    logging.getLogger("cambrian_gaze").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()


def prepare_deepspeed() -> None:
    """What DeepSpeed needs on a machine without a GPU, before it is imported: to be told so, and not to compile a
    kernel that only its inference uses (a minute, and a C++ compiler that may not be there).

    Raises: ConfigError where DeepSpeed is not installed.
    """
    # One line per rank and collective, about a name inside DeepSpeed.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        ops = require("deepspeed.ops", "train")
    except ImportError as error:
        raise ConfigError(f"deepspeed: {error}") from error
    if torch.cuda.is_available():
        return
    compatible = getattr(ops, "__compatible_ops__", {})
    if "deepspeed_shm_comm" in compatible:
        compatible["deepspeed_shm_comm"] = False


if __name__ == "__main__":
    sys.exit(main())
