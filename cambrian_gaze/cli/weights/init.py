"""`cambrian-gaze init`: a model folder from published backbones."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from cambrian_gaze.cli.arguments import add_key_report, gigabytes, print_key_report
from cambrian_gaze.cli.plugins import add_plugin, load_given


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze init",
        description="Write a model folder from a language model and a vision tower; projector and context tokens are "
        "fresh. Weights go from file to file, one tensor at a time.",
    )
    parser.add_argument("--llm", required=True, metavar="NAME", help="language model: folder or Hub id (Qwen/Qwen3-4B)")
    parser.add_argument(
        "--vision",
        required=True,
        metavar="NAME",
        help="SigLIP, CLIP or DINOv2: folder or Hub id (google/siglip2-so400m-patch16-384)",
    )
    parser.add_argument(
        "--preset", help="4b, 7b, 4b-512 or 7b-512: checks the backbones' sizes and gives the gaze configuration"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write; must be new or empty")
    parser.add_argument("--tokenizer", metavar="NAME", help="folder or Hub id; default: the language model's")
    parser.add_argument(
        "--model_overrides",
        metavar="JSON",
        help='other fields of the configuration, such as \'{"mm_projector_type": "conv3x3_mlp2x_gelu"}\'',
    )
    parser.add_argument(
        "--image_aspect_ratio",
        default="square",
        metavar="NAME",
        help="square: pictures are stretched to the model's square, as the published models do; pad: they are padded; "
        "default: square",
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), help="default: the language model's")
    parser.add_argument("--seed", type=int, default=0, help="of the new parameters; default: 0")
    parser.add_argument("--max_shard_size", type=gigabytes, default=gigabytes("4"), metavar="GB", help="default: 4")
    parser.add_argument(
        "--keep_sampling",
        action="store_true",
        help="keep the language model's sampling settings (temperature, repetition penalty, …); default: greedy",
    )
    add_key_report(parser)
    add_plugin(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the folder, or with --dry_run the report alone. Returns the exit status: 1 where the keys do not match."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        overrides = json.loads(arguments.model_overrides or "{}")
    except json.JSONDecodeError as error:
        parser.error(f"--model_overrides is not JSON: {error}")
    if not isinstance(overrides, dict):
        parser.error(f"--model_overrides must be a JSON object, got {arguments.model_overrides!r}")

    import torch

    from cambrian_gaze.models.conversion.initialise import initialise

    try:
        load_given(arguments)
        report = initialise(
            arguments.out,
            arguments.llm,
            arguments.vision,
            preset=arguments.preset,
            overrides=overrides,
            tokenizer=arguments.tokenizer,
            dtype=getattr(torch, arguments.dtype) if arguments.dtype else None,
            seed=arguments.seed,
            image_aspect_ratio=arguments.image_aspect_ratio,
            max_shard_size=arguments.max_shard_size,
            dry_run=arguments.dry_run,
            keep_sampling=arguments.keep_sampling,
        )
    except (ValueError, OSError) as error:
        parser.exit(2, f"cambrian-gaze init: {error}\n")
    return print_key_report(report, arguments)
