"""`cambrian-gaze generate`: a saved model answers a prompt about images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cambrian_gaze.cli.arguments import add_generation, gaze_options

if TYPE_CHECKING:
    from PIL import Image

    from cambrian_gaze.models.processing import CambrianGazeProcessor
    from cambrian_gaze.models.trace import GazeTrace


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze generate", description="Answer a prompt about images with a saved Cambrian-Gaze model."
    )
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="the question")
    parser.add_argument(
        "--image", action="append", default=[], metavar="PATH", help="an image; repeat it for several, shown in order"
    )
    parser.add_argument("--trace", metavar="FILE.png", help="picture of the regions that each new token looked at")
    add_generation(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the answer, and with `--trace` write the picture. Returns the exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.trace and not arguments.image:
        parser.error("--trace shows where the model looked in an image; give one with --image")
    try:
        answer = generate(arguments)
    except (ImportError, OSError, ValueError) as error:
        print(f"cambrian-gaze generate: {error}", file=sys.stderr)
        return 1
    print(answer)
    return 0


def generate(arguments: argparse.Namespace) -> str:
    """The answer's text. Greedy, so that the same call gives the same answer."""
    from cambrian_gaze.cli.loading import load
    from cambrian_gaze.data.media import load_image

    paths = [Path(path).resolve() for path in arguments.image]
    images = [load_image(path.name, path.parent, flag="") for path in paths]
    model, processor = load(arguments.model, arguments.device, arguments.adapter, arguments.system)

    content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    content.append({"type": "text", "text": arguments.prompt})
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True
    ).to(model.device)
    output = model.generate(
        **inputs,
        gaze=gaze_options(arguments),
        return_gaze=True,
        do_sample=False,
        max_new_tokens=arguments.max_new_tokens,
    )
    new_ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    if arguments.trace:
        write_trace(Path(arguments.trace), images, new_ids, output.gaze, processor, arguments.prompt)
    return processor.decode(new_ids, skip_special_tokens=True).strip()


def write_trace(
    path: Path,
    images: list[Image.Image],
    new_ids: list[int],
    trace: GazeTrace,
    processor: CambrianGazeProcessor,
    title: str,
) -> None:
    """A PNG with one panel per generated token: the images as the model saw them, and the regions it chose."""
    from cambrian_gaze.data.images import pad_to_square
    from cambrian_gaze.viz.files import write_png
    from cambrian_gaze.viz.overlay import gaze_strip

    tokens = [processor.decode([token]) for token in new_ids]
    squares = [pad_to_square(image, processor.image_processor.image_mean) for image in images]
    write_png(path, gaze_strip(trace, tokens, squares, title=title))
