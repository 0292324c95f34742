"""`cambrian-gaze push`: a saved model with a card made of its run, to the Hugging Face hub."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cambrian_gaze.cli.plugins import add_plugin, load_given


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze push",
        description="Upload a saved model to the hub: safetensors, processor, lineage, and a card made of the files of "
        "the run. A README.md in the folder is the card as it is. Log in with `hf auth login` first.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of a saved model")
    parser.add_argument("--repo", required=True, metavar="NAME", help="repository, such as name/model")
    parser.add_argument(
        "--scores", action="append", default=[], metavar="FILE", help="results for the card; repeat it for several"
    )
    parser.add_argument("--picture", metavar="FILE.png", help="where it looks, of cambrian-gaze generate --trace")
    parser.add_argument("--license", metavar="ID", help="licence of the weights, such as apache-2.0; default: not said")
    parser.add_argument("--private", action="store_true", help="a repository that is made is private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to push to; default: main")
    parser.add_argument("--dry_run", action="store_true", help="write the card, list the files and upload nothing")
    add_plugin(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Push and print where to. Returns the exit status."""
    arguments = build_parser().parse_args(argv)

    from cambrian_gaze.hub.card import CARD, read_scores
    from cambrian_gaze.hub.push import CardParts, push_to_hub

    try:
        load_given(arguments)
        pushed = push_to_hub(
            arguments.folder,
            arguments.repo,
            CardParts(
                scores=[score for file in arguments.scores for score in read_scores(file)],
                picture=arguments.picture,
                license=arguments.license,
            ),
            private=arguments.private,
            revision=arguments.revision,
            dry_run=arguments.dry_run,
        )
    except (OSError, ValueError) as error:
        print(f"cambrian-gaze push: {error}", file=sys.stderr)
        return 1
    print(f"{CARD}: {'written' if pushed.card_is_new else 'kept as it was'} in {arguments.folder}")
    if pushed.left_out:
        print(f"left here: {', '.join(pushed.left_out)}")
    print(f"{'would push' if pushed.url is None else 'pushed'} {len(pushed.files)} files: {', '.join(pushed.files)}")
    if pushed.url is not None:
        print(pushed.url)
    return 0
