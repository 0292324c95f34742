"""One training run, from its configuration to the saved model. `launch/` starts it, on several ranks if asked to."""

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

from cambrian_gaze.data.media.image_files import MachineError
from cambrian_gaze.data.quarantine import QuarantineLog, TooManyQuarantined, first_rows
from cambrian_gaze.extras import require
from cambrian_gaze.training.build import build_model
from cambrian_gaze.training.checkpoint.checkpoint import NotSavedError
from cambrian_gaze.training.checkpoint.continuation import finished_text, write_run_config
from cambrian_gaze.training.checkpoint.model_folder import origin_of
from cambrian_gaze.training.checkpoint.resume import FirstRankFailed, checkpoint_to_resume, first_rank_decides
from cambrian_gaze.training.config import config as configuration
from cambrian_gaze.training.config.config import RunConfig
from cambrian_gaze.training.config.flags import COMMAND_LINE, asks_for
from cambrian_gaze.training.config.layers import ConfigError
from cambrian_gaze.training.config.places import check_folders, check_select_layer
from cambrian_gaze.training.config.values import gather
from cambrian_gaze.training.data import build_collator, build_datasets, build_order, expected_missing
from cambrian_gaze.training.faults.bad_steps import TooManyBadSteps
from cambrian_gaze.training.faults.lock import RunLock
from cambrian_gaze.training.faults.orphan import end_with_launcher
from cambrian_gaze.training.gaze_schedule import dense_because
from cambrian_gaze.training.launch.agent import EXIT_INTERRUPTED, EXIT_STOPPED
from cambrian_gaze.training.launch.ranks import start_ranks, under_launcher
from cambrian_gaze.training.launch.requests import StopRequest
from cambrian_gaze.training.metrics.log import read_log
from cambrian_gaze.training.metrics.samples import GazeSamples
from cambrian_gaze.training.metrics.summary import write_summary
from cambrian_gaze.training.metrics.task_scores import OpenBenchmarks, open_benchmarks, try_out
from cambrian_gaze.training.optimizer import check_rates, check_schedule
from cambrian_gaze.training.parts import RunOptions
from cambrian_gaze.training.trainer import CambrianTrainer

logger = logging.getLogger(__name__)


def main(
    argv: Sequence[str] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    benchmarks: OpenBenchmarks | None = None,
) -> int:
    """Parse, build, train, save. Returns the exit status.

    `benchmarks` reads those that `eval_tasks` names; the command `train` hands in the evaluation's.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if asks_for("help_all", argv):
        print(configuration.help_text())
        return 0
    try:
        argv = start_ranks(argv)
        values, _ = gather(argv)
        if values.get("deepspeed"):
            prepare_deepspeed()
        run = configuration.load(argv)
    except ConfigError as error:
        print(f"cambrian-gaze train: {error}", file=sys.stderr)
        return 2
    if under_launcher(os.environ):
        end_with_launcher()
    request = StopRequest()
    with request.listening(), RunLock(run.training.output_dir).releasing() as lock:
        try:
            finished = first_rank_decides(lambda: finished_text(run))
            if finished is None:
                first_rank_decides(lock.take)
                trainer, checkpoint = prepare(run, callbacks, request, benchmarks)
        except FirstRankFailed:
            return 2  # The first rank has said why.
        except TooManyQuarantined as error:
            return _stopped(error, run, quarantine_log(run))
        except (ValueError, OSError, ImportError) as error:
            return _refused(error)
        except KeyboardInterrupt:
            print("cambrian-gaze train: interrupted before the first step", file=sys.stderr)
            return EXIT_INTERRUPTED
        if finished is not None:
            if run.training.process_index == 0:
                print(f"cambrian-gaze train: {finished}", file=sys.stderr)
            return 0
        try:
            finish(run, trainer, checkpoint)
        except NotSavedError as error:
            print(f"cambrian-gaze train: {error}", file=sys.stderr)
            return EXIT_STOPPED
        except TooManyQuarantined as error:
            return _stopped(error, run, trainer.quarantine.path)
        except TooManyBadSteps as error:
            return _stopped(error, run, trainer.guard.bad_steps.path)
        except MachineError as error:
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
    run: RunConfig,
    callbacks: Sequence[TrainerCallback] = (),
    request: StopRequest | None = None,
    benchmarks: OpenBenchmarks | None = None,
) -> CambrianTrainer | None:
    """Run a configuration to its end, continuing from the last complete checkpoint. A `request` to stop ends it after
    a step with a checkpoint, and the model is not saved. None where the run in `output_dir` is finished already.

    Raises: ValueError or OSError where options, data or `output_dir` do not allow the run.
    """
    if first_rank_decides(lambda: finished_text(run)) is not None:
        return None
    with RunLock(run.training.output_dir).releasing() as lock:
        first_rank_decides(lock.take)
        trainer, checkpoint = prepare(run, callbacks, request, benchmarks)
        return finish(run, trainer, checkpoint)


def prepare(
    run: RunConfig,
    callbacks: Sequence[TrainerCallback] = (),
    request: StopRequest | None = None,
    benchmarks: OpenBenchmarks | None = None,
) -> tuple[CambrianTrainer, str | None]:
    """The trainer of a run with its model and data, and the checkpoint that it goes on from."""
    args = run.training
    if args.process_index > 0:
        quieten()
    check_folders(run.data)
    opened = open_benchmarks(run, benchmarks)
    checkpoint = checkpoint_to_resume(run)
    set_seed(args.seed)
    model, processor = build_model(run.model, run.gaze, args, run.lora)
    check_select_layer(run.model.mm_vision_select_layer, model.config.vision_feature_layer)
    if opened is not None:
        try_out(opened, model, processor)
    if args.stage == 2:
        asked = {"progressive", "random_k"} & run.values.keys()
        dense = dense_because(model.config.gaze_config, model.config.grid, run.data.video_max_frames, bool(asked))
        if dense:
            logger.warning(dense)
    quarantine = QuarantineLog(
        quarantine_log(run),
        args.process_index,
        logs_fills=args.process_index % args.sequence_parallel_size == 0,
    )
    train_data, eval_data = build_datasets(run.data, processor, quarantine)
    options = RunOptions(
        order=build_order(run.data, args, train_data, quarantine),
        quarantine=quarantine,
        max_quarantined_share=run.data.max_quarantined_share,
        expected_missing=expected_missing(train_data, args),
        progressive=run.gaze.progressive,
        request=request or StopRequest(),
        fits_save_steps=run.sources.get("save_steps") != COMMAND_LINE,
        origin=origin_of(run) if args.should_save else None,
        benchmarks=opened,
        benchmark_steps=run.tasks.eval_tasks_steps,
    )
    trainer = CambrianTrainer(
        options,
        model=model,
        args=args,
        train_dataset=train_data,
        eval_dataset=eval_data,
        data_collator=build_collator(run.data, processor),
        processing_class=processor,
        callbacks=list(callbacks),
    )
    trainer.get_optimizer_cls_and_kwargs(args, model)  # Raises where its package is missing.
    check_rates(model, args)
    check_schedule(args)
    if eval_data is not None:
        trainer.get_eval_dataloader()  # Raises where they cannot be evaluated.
    if args.sample_steps:
        others = trainer.callback_handler.callbacks
        trainer.add_callback(GazeSamples(eval_data or train_data, processor, trainer.meter, others))
    return trainer, checkpoint


def finish(run: RunConfig, trainer: CambrianTrainer, checkpoint: str | None) -> CambrianTrainer:
    """Train to the end, or to a request to stop, and write model, state and summary."""
    first = trainer.is_world_process_zero()
    if first:
        write_run_config(run)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        trainer.data.end_workers()
    if not trainer.request.granted:
        trainer.save_model()
        trainer.save_state()
        if first:
            write_run_config(run, trainer.state.global_step)
    if first and read_log(run.training.output_dir):
        write_summary(run.training.output_dir)
    return trainer


def quarantine_log(run: RunConfig) -> Path:
    """Where the samples are named that could not be used."""
    return Path(run.data.quarantine_log or Path(run.training.output_dir) / "quarantine.jsonl")


def _stopped(error: Exception, run: RunConfig, log: Path | str) -> int:
    """End a run that all ranks stop at the same place: the first one says why, in a line, with the first rows of the
    `log`, and writes the summary of what was trained. Returns the exit status."""
    if run.training.process_index == 0:
        rows = first_rows(log)
        print(f"cambrian-gaze train: {error}" + (f". The first: {rows}" if rows else ""), file=sys.stderr, flush=True)
        if read_log(run.training.output_dir):
            write_summary(run.training.output_dir)
    if dist.is_initialized():
        dist.barrier()  # A launcher kills the ranks that are left when the first one ends.
        dist.destroy_process_group()
    logger.debug("where it came from", exc_info=error)
    return EXIT_STOPPED


def _refused(error: Exception) -> int:
    """Say in a line what keeps a run from beginning. Returns the exit status."""
    rank = int(os.environ.get("RANK", 0))
    print(f"cambrian-gaze train: {f'rank {rank}: ' if rank else ''}{error}", file=sys.stderr)
    logger.debug("where it came from", exc_info=error)
    return 2


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
