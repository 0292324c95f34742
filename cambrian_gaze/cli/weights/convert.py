"""`cambrian-gaze convert`: checkpoints of LLaVA, Cambrian and Cambrian-S to model folders, and back."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cambrian_gaze.cli.arguments import add_key_report, gigabytes, print_key_report
from cambrian_gaze.cli.plugins import add_plugin, load_given


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze convert", description="Convert checkpoints from and to the layout of Cambrian."
    )
    ways = parser.add_subparsers(dest="way", required=True, metavar="WAY")
    come = ways.add_parser(
        "from-cambrian",
        help="a LLaVA, Cambrian or Cambrian-S checkpoint to a dense model folder",
        description="Convert a LLaVA, Cambrian or Cambrian-S checkpoint with one SigLIP tower and an mlp2x_gelu "
        "projector, or its mm_projector.bin alone. Tensors stay as stored.",
    )
    come.add_argument("path", metavar="DIR", help="folder of the checkpoint, or an mm_projector.bin")
    come.add_argument("--image_newline", choices=("refuse", "drop"), default="refuse", help="the row-newline token")
    come.add_argument("--anyres", choices=("refuse", "base"), default="refuse", help="base: use the base view alone")
    come.add_argument(
        "--pooling",
        choices=("refuse", "native"),
        default="refuse",
        help="native: use all tokens of the tower where upstream interpolates to fewer",
    )
    come.add_argument("--vision", metavar="NAME", help="SigLIP, folder or Hub id, where the checkpoint has no tower")
    come.add_argument("--tokenizer", metavar="NAME", help="folder or Hub id; default: the checkpoint's")
    go = ways.add_parser(
        "to-cambrian",
        help="a model folder to a checkpoint in Cambrian-S's layout",
        description="Convert a model folder to a checkpoint in Cambrian-S's layout; what was converted from there "
        "comes back byte by byte.",
    )
    go.add_argument("path", metavar="DIR", help="model folder")
    go.add_argument("--drop_context_tokens", action="store_true", help="leave them out; Cambrian has no place for them")
    go.add_argument("--model_type", metavar="NAME", help="of the architecture, where it cannot be told")
    go.add_argument("--tower", metavar="NAME", help="of the vision tower, where it cannot be told")
    for way in (come, go):
        way.add_argument("--out", required=True, metavar="DIR", help="folder to write; must be new or empty")
        way.add_argument("--max_shard_size", type=gigabytes, default=gigabytes("4"), metavar="GB", help="default: 4")
        add_key_report(way)
        add_plugin(way)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Convert. Returns the exit status: 1 where the keys do not match."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    common = {"max_shard_size": arguments.max_shard_size, "dry_run": arguments.dry_run}
    try:
        load_given(arguments)
        if arguments.way == "to-cambrian":
            from cambrian_gaze.models.conversion.to_cambrian import to_cambrian

            report = to_cambrian(
                arguments.path,
                arguments.out,
                drop_context_tokens=arguments.drop_context_tokens,
                model_type=arguments.model_type,
                tower=arguments.tower,
                **common,
            )
        elif Path(arguments.path).is_file():
            return convert_projector(arguments)
        else:
            from cambrian_gaze.models.conversion.cambrian import Choices
            from cambrian_gaze.models.conversion.from_cambrian import from_cambrian

            report = from_cambrian(
                arguments.path,
                arguments.out,
                Choices(arguments.image_newline, arguments.anyres, arguments.pooling),
                vision=arguments.vision,
                tokenizer=arguments.tokenizer,
                **common,
            )
    except (ValueError, OSError) as error:
        parser.exit(2, f"cambrian-gaze convert: {error}\n")
    return print_key_report(report, arguments)


def convert_projector(arguments: argparse.Namespace) -> int:
    """`mm_projector.bin` to the safetensors export that stage 2 starts from."""
    from cambrian_gaze.models.conversion.cambrian import Choices
    from cambrian_gaze.models.conversion.from_cambrian import read_adapter
    from cambrian_gaze.training.checkpoint.projector import write_export

    tensors, notes = read_adapter(arguments.path, Choices(arguments.image_newline))
    for note in notes:
        print(f"  note: {note}")
    if arguments.dry_run:
        print(f"{len(tensors)} tensors, 0 missing, 0 unexpected (nothing was written)")
        return 0
    out = Path(arguments.out)
    if out.exists():
        raise ValueError(f"{out} exists; choose another name")
    vision, width = tensors["model.mm_projector.0.weight"].shape[1], tensors["model.mm_projector.2.weight"].shape[0]
    fits = {"mm_projector_type": "mlp2x_gelu", "vision_hidden_size": vision, "hidden_size": width}
    write_export(tensors, out, {**fits, "num_context_tokens": 0, "converted_from": Path(arguments.path).name})
    print(f"{len(tensors)} tensors, 0 missing, 0 unexpected; wrote {out}")
    return 0
