"""`cambrian-gaze checkpoint show`: the lineage of a saved model, and whether its weights are still those."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze checkpoint show",
        description="Print what made a saved model: fingerprint of the weights, configuration, code version, data "
        "recipe, and the same of every parent.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of a saved model or checkpoint")
    parser.add_argument("--json", action="store_true", help="print the lineage file as it is")
    parser.add_argument("--verify", action="store_true", help="read the weights and compare them with the fingerprint")
    return parser


def run(arguments: argparse.Namespace) -> str:
    """The text to print. Raises ValueError where there is no lineage, or the weights are not its."""
    from cambrian_gaze.models.folders.folder_check import check_files
    from cambrian_gaze.models.folders.lineage import lines, read_lineage, weights_digest

    if arguments.verify and Path(arguments.folder).is_dir():
        check_files(arguments.folder)
    lineage = read_lineage(arguments.folder)
    if arguments.verify and (found := weights_digest(arguments.folder)) != lineage["weights"]:
        raise ValueError(f"the weights in {arguments.folder} are {found}, not {lineage['weights']} as recorded")
    verified = f"verified: the weights in {arguments.folder} are those recorded"
    if arguments.json:
        if arguments.verify:
            print(verified, file=sys.stderr)
        return json.dumps(lineage, indent=2)
    return "\n".join([*lines(lineage), *([verified] if arguments.verify else [])])
