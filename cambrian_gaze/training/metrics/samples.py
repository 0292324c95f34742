"""A look at the model while it trains: its answer to one sample, and where it looked for each token."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as HfTrainingArguments

from cambrian_gaze.data.inspect.preview import picture
from cambrian_gaze.data.media.aspect import unstretched
from cambrian_gaze.data.mixture.streams import StreamDataset
from cambrian_gaze.data.quarantine import Quarantined
from cambrian_gaze.extras import require
from cambrian_gaze.files import write_png
from cambrian_gaze.gaze.token_types import IGNORED_LABEL, IMAGE_TYPE, TEXT_TYPE, VIDEO_TYPE
from cambrian_gaze.training.metrics.meter import Meter
from cambrian_gaze.viz.overlay import gaze_strip
from cambrian_gaze.viz.trace import Trace
from cambrian_gaze.viz.trace_record import Asked, trace_of

logger = logging.getLogger(__name__)

FOLDER = "samples"
NEW_TOKENS = 24
_TRIED = 64
"""Rows among which one with a picture is sought."""


def samples_with_pictures(dataset: Any, most: int) -> list[dict[str, Any]]:
    """The first samples of a dataset that hold an image or video and an answer. A stream is not read: its samples are
    for training."""
    found: list[dict[str, Any]] = []
    for row in range(0 if isinstance(dataset, StreamDataset) else min(_TRIED, len(dataset))):
        sample = dataset[row]
        usable = not isinstance(sample, Quarantined) and "pixel_values" in sample
        if usable and (sample["labels"] != IGNORED_LABEL).any():
            found.append(sample)
        if len(found) == most:
            break
    return found


@contextlib.contextmanager
def eval_mode(model: Any) -> Iterator[None]:
    """Evaluation within a run, which changes none of its state: neither the mode of a module nor a generator of random
    numbers."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    devices = [model.device] if model.device.type == "cuda" else []
    plain, array = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(array)
        for module, training in modes.items():
            module.training = training


def pictures(sample: dict[str, Any], processor: Any) -> list[Image.Image | list[Image.Image]]:
    """A sample's images, and for a video the list of its frames, as the model sees them; what it sees stretched, in
    its own shape."""
    own, aspect = processor.image_processor, processor.image_aspect_ratio
    frames = [
        unstretched(picture(pixels, own.image_mean, own.image_std), tuple(size), aspect)
        for pixels, size in zip(sample["pixel_values"], sample["picture_sizes"].tolist(), strict=True)
    ]
    items: list[Image.Image | list[Image.Image]] = []
    for count in sample["grid_thw"][:, 0].tolist():
        items.append(frames[0] if count == 1 else frames[:count])
        frames = frames[count:]
    return items


def answer(model: Any, processor: Any, sample: dict[str, Any]) -> tuple[str, Image.Image, Trace | None]:
    """The model's greedy answer to a sample's first question, the picture of its gaze, and its trace: None for a video
    whose frames differ in size, which a trace cannot keep."""
    asked = int((sample["labels"] != IGNORED_LABEL).nonzero()[0])
    # Pictures that come later in the conversation are no part of the question.
    visual = int(torch.isin(sample["mm_token_type_ids"][:asked], torch.tensor([IMAGE_TYPE, VIDEO_TYPE])).sum())
    items = int((sample["grid_thw"].prod(1).cumsum(0) <= visual).sum())
    grids = sample["grid_thw"][:items]
    units = int(grids[:, 0].sum())
    shown = {name: sample[name][:units] for name in ("pixel_values", "picture_sizes")} | {"grid_thw": grids}
    inputs = {key: sample[key][None, :asked].to(model.device) for key in ("input_ids", "mm_token_type_ids")}
    inputs |= {"attention_mask": torch.ones_like(inputs["input_ids"])}
    inputs |= {"pixel_values": shown["pixel_values"].to(model.device, model.dtype)}
    inputs |= {"grid_thw": grids.to(model.device)}
    with eval_mode(model):
        output = model.generate(
            **inputs,
            return_gaze="weights",
            output_logits=True,
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            use_cache=True,
        )
    new_ids = output.sequences[0, asked:].tolist()
    tokens = [processor.decode([token]) for token in new_ids]
    seen = pictures(shown, processor)
    strip = gaze_strip(output.gaze, tokens, seen)
    texts = sample["input_ids"][:asked][sample["mm_token_type_ids"][:asked] == TEXT_TYPE]
    question = processor.decode(texts.tolist(), skip_special_tokens=True).rpartition("user\n")[2]
    question = question.strip().removesuffix("assistant").strip()
    # Without a digest of the weights: they have none while they change.
    facts = {"name": model.name_or_path or None, "weights": None}
    try:
        trace = trace_of(output, model, processor, Asked(question, asked, seen), facts=facts)
    except ValueError as error:
        logger.warning("sample_steps: no trace of this sample: %s", error)
        trace = None
    return processor.decode(new_ids, skip_special_tokens=True).strip(), strip, trace


class GazeSamples(TrainerCallback):
    """Writes `samples/step-N.png` every `sample_steps` steps, on the first rank, always of the same sample; beside it
    the answer's text, and its trace for `cambrian-gaze gaze view`."""

    def __init__(self, dataset: Any, processor: Any, meter: Meter, others: Sequence[TrainerCallback]) -> None:
        """Args:
        dataset: a sample with a picture is taken from it when training begins.
        meter: the time that answering takes is not training.
        others: the run's callbacks, among which TensorBoard's may be.
        """
        self.dataset, self.processor, self.meter, self.others = dataset, processor, meter, others
        self._sample: dict[str, Any] | None = None

    def on_train_begin(
        self, args: HfTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Choose the sample."""
        if state.is_world_process_zero:
            self._sample = next(iter(samples_with_pictures(self.dataset, 1)), None)
            if self._sample is None:
                logger.warning("sample_steps: no sample with a picture among the first %d rows; none is drawn", _TRIED)

    def on_step_end(
        self, args: HfTrainingArguments, state: TrainerState, control: TrainerControl, model: Any, **kwargs: Any
    ) -> None:
        """Answer, write, and show where the run is shown."""
        if self._sample is not None and state.global_step % args.sample_steps == 0:
            with self.meter.excluded():
                self._draw(args, state.global_step, model)

    def _draw(self, args: HfTrainingArguments, step: int, model: Any) -> None:
        text, picture, trace = answer(model, self.processor, self._sample)
        path = write_png(Path(args.output_dir) / FOLDER / f"step-{step}.png", picture)
        path.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
        if trace is not None:
            trace.save(path.with_suffix(".safetensors"))
        for callback in self.others:
            writer = getattr(callback, "tb_writer", None)
            if writer is not None:
                writer.add_image("gaze", np.asarray(picture), step, dataformats="HWC")
        if "wandb" in args.report_to:
            wandb = require("wandb", "wandb")
            shown = wandb.Image(picture, caption=text)
            wandb.log({"gaze": shown, "train/global_step": step})
