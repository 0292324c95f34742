"""`cambrian-gaze generate`: a saved model answers a prompt about images or a video."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cambrian_gaze.cli.arguments import (
    add_generation,
    add_policy,
    add_sampling,
    add_video,
    gaze_options,
    one_line,
    policy_from,
    sampling_from,
    sampling_options,
)

if TYPE_CHECKING:
    from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
    from cambrian_gaze.models.processing.processor import CambrianGazeProcessor
    from cambrian_gaze.models.trace import GazeTrace


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze generate",
        description="Answer a prompt about images or a video with a saved Cambrian-Gaze model. Greedy, so that the "
        "same call gives the same answer, unless an option of sampling is given.",
    )
    parser.add_argument(
        "--prompt",
        required=True,
        metavar="TEXT",
        help="the question; <image> and <video> in it stand for the pictures and the video, as in a data file",
    )
    parser.add_argument(
        "--image", action="append", default=[], metavar="PATH", help="an image; repeat it for several, shown in order"
    )
    parser.add_argument("--video", metavar="PATH", help="a video file, or a folder of frames")
    parser.add_argument("--trace", metavar="FILE.png", help="picture of the regions that each new token looked at")
    parser.add_argument(
        "--trace_file",
        metavar="FILE",
        help="the gaze as data, with probabilities and pictures (safetensors), for `cambrian-gaze gaze`",
    )
    parser.add_argument("--gaze_report", metavar="FILE.html", help="a page to explore the gaze in, one file, offline")
    add_generation(parser)
    add_policy(parser)
    add_sampling(parser)
    add_video(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the answer, and write what shows its gaze. Returns the exit status: 2 for what was given wrongly."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    shown = next((name for name in ("trace", "trace_file", "gaze_report") if getattr(arguments, name)), None)
    if shown and not arguments.image and arguments.video is None:
        parser.error(f"--{shown} shows where the model looked in an image or video; give one with --image or --video")
    if arguments.trace and arguments.policy:
        parser.error(
            "--trace shows the regions that were chosen, and under --policy none is; --trace_file and --gaze_report "
            "show what the policy kept"
        )
    try:
        answer = generate(arguments)
    except (ImportError, OSError, ValueError) as error:
        print(f"cambrian-gaze generate: {one_line(error)}", file=sys.stderr)
        return 2
    print(answer)
    return 0


def generate(arguments: argparse.Namespace) -> str:
    """The answer's text."""
    options, frames = sampling_options(arguments), sampling_from(arguments)
    gaze, policy = gaze_options(arguments), policy_from(arguments)
    for path in [*arguments.image, *([] if arguments.video is None else [arguments.video])]:
        if not Path(path).exists():
            raise FileNotFoundError(f"{path}: there is no such file")
    messages = prompt(arguments.prompt, arguments.image, arguments.video, frames)
    visuals = [part for message in messages for part in message["content"] if part["type"] != "text"]
    pictures = [part[part["type"]] for part in visuals]
    kept = bool(arguments.trace_file or arguments.gaze_report)
    if kept:
        from cambrian_gaze.viz.trace_record import check_pictures

        check_pictures(pictures)

    import torch

    from cambrian_gaze.cli.loading import load

    model, processor = load(arguments.model, arguments.device, arguments.adapter, arguments.system)
    inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True).to(model.device)
    if arguments.seed is not None:
        torch.manual_seed(arguments.seed)
    output = model.generate(
        **inputs,
        gaze=gaze,
        policy=None if policy is None else policy.with_tokenizer(processor.tokenizer),
        return_gaze="weights" if kept else True,
        output_logits=kept,
        max_new_tokens=arguments.max_new_tokens,
        **options,
    )
    new_ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    if arguments.trace:
        write_trace(Path(arguments.trace), pictures, new_ids, output.gaze, processor, arguments.prompt)
    if kept:
        paths = iter(arguments.image)
        sources = [arguments.video if part["type"] == "video" else next(paths) for part in visuals]
        write_data(arguments, pictures, sources, inputs["input_ids"].shape[1], output, model, processor)
    return processor.decode(new_ids, skip_special_tokens=True).strip()


def prompt(text: str, images: Sequence[str], video: str | None, frames: Any) -> list[dict[str, Any]]:
    """The messages of a record with this question, its pictures loaded: the model gets the tokens that it was trained
    on. Raises ValueError where placeholders and pictures disagree, and for a picture that cannot be read."""
    from cambrian_gaze.data.errors import RecordError
    from cambrian_gaze.data.media.image_files import load_image
    from cambrian_gaze.data.media.video import load_frames
    from cambrian_gaze.data.records.records import Record
    from cambrian_gaze.evaluation.prompts import prompt_messages

    record = Record("prompt", [{"from": "human", "value": text}], list(images), video)
    try:
        messages = prompt_messages(record)
    except RecordError as error:
        raise ValueError(f"--prompt: {error.reason}; write one placeholder for each, or none at all") from error
    paths = iter([Path(path).resolve() for path in images])
    for part in (part for message in messages for part in message["content"]):
        path = Path(video).resolve() if part["type"] == "video" else next(paths) if part["type"] == "image" else None
        try:
            if part["type"] == "image":
                part["image"] = load_image(path.name, path.parent)
            elif part["type"] == "video":
                part["video"] = load_frames(path.name, path.parent, frames)
        except RecordError as error:
            raise ValueError(f"--{part['type']}: {error.reason}") from error
    return messages


def write_trace(
    path: Path,
    visuals: list[Any],
    new_ids: list[int],
    trace: GazeTrace,
    processor: CambrianGazeProcessor,
    title: str,
) -> None:
    """A PNG with one panel per generated token: images and frames as the model saw them, and the regions it chose."""
    from cambrian_gaze.data.media.aspect import model_view
    from cambrian_gaze.files import write_png
    from cambrian_gaze.viz.overlay import gaze_strip

    tokens = [processor.decode([token]) for token in new_ids]
    mean = processor.image_processor.image_mean
    aspect = processor.image_aspect_ratio
    views = [
        [model_view(frame, aspect, mean) for frame in visual]
        if isinstance(visual, list)
        else model_view(visual, aspect, mean)
        for visual in visuals
    ]
    write_png(path, gaze_strip(trace, tokens, views, title=title))


def write_data(
    arguments: argparse.Namespace,
    pictures: list[Any],
    sources: list[str],
    prompt_tokens: int,
    output: Any,
    model: CambrianGazeForConditionalGeneration,
    processor: CambrianGazeProcessor,
) -> None:
    """The trace as a file and as a page, whichever were asked for."""
    from cambrian_gaze.baselines.registry import options_of
    from cambrian_gaze.models.policies import policy_gaze
    from cambrian_gaze.viz.trace_record import Asked, model_facts, trace_of

    more = {} if arguments.adapter is None else {"adapter": arguments.adapter}
    policy, gaze = policy_from(arguments), gaze_options(arguments)
    if policy is not None:
        more, gaze = more | {"policy": options_of(policy)}, policy_gaze(policy, gaze)
    trace = trace_of(
        output,
        model,
        processor,
        Asked(prompt_tokens=prompt_tokens, prompt=arguments.prompt, pictures=pictures, sources=sources, gaze=gaze),
        facts=model_facts(arguments.model) | more,
    )
    if arguments.trace_file:
        trace.save(arguments.trace_file)
    if arguments.gaze_report:
        from cambrian_gaze.viz.viewer import write_viewer

        write_viewer(arguments.gaze_report, trace)
