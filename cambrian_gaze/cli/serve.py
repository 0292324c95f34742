"""`cambrian-gaze serve`: a chat endpoint in the form of OpenAI's API for a saved model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cambrian_gaze.cli.arguments import add_generation, gaze_options


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze serve",
        description="Answer OpenAI-style requests at http://HOST:PORT/v1/chat/completions: text, images as data: URLs, "
        "streaming, and `gaze` with the budget of a request. One request at a time, no authentication.",
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1, this machine alone")
    parser.add_argument("--port", type=int, default=8000, metavar="PORT", help="default: 8000; 0 takes a free one")
    parser.add_argument("--name", metavar="NAME", help="the model's name in requests; default: the folder's")
    add_generation(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted. Returns the exit status."""
    arguments = build_parser().parse_args(argv)

    from cambrian_gaze.cli.loading import load
    from cambrian_gaze.models.serve.chat import ChatModel
    from cambrian_gaze.models.serve.server import ChatServer

    try:
        model, processor = load(arguments.model, arguments.device, arguments.adapter, arguments.system)
        options = gaze_options(arguments)
        model.model.resolve_gaze(options)
        name = arguments.name or Path(arguments.model).name
        chat = ChatModel(model, processor, name, options)
        server = ChatServer(chat, arguments.host, arguments.port, arguments.max_new_tokens)
    except (OSError, ValueError) as error:
        print(f"cambrian-gaze serve: {error}", file=sys.stderr)
        return 1
    host, port = server.server_address[:2]
    print(f"{name!r} at http://{host}:{port}/v1 (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("ended")
    finally:
        server.server_close()
    return 0
