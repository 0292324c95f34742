"""`cambrian-gaze serve`: a chat endpoint in the form of OpenAI's API for a saved model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cambrian_gaze.cli.arguments import (
    add_generation,
    add_sampling,
    add_video,
    gaze_options,
    one_line,
    sampling_from,
    sampling_options,
)
from cambrian_gaze.cli.plugins import add_plugin, load_given


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze serve",
        description="Answer OpenAI-style requests at http://HOST:PORT/v1/chat/completions: text, images and videos as "
        "data: URLs, streaming, and `gaze` with the budget of a request. One request is answered at a time, without "
        "authentication. Options of sampling and length hold for requests that do not say.",
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1, this machine alone")
    parser.add_argument("--port", type=_port, default=8000, metavar="PORT", help="default: 8000; 0 takes a free one")
    parser.add_argument("--name", metavar="NAME", help="the model's name in requests; default: the folder's")
    parser.add_argument(
        "--allow_origin", action="append", default=[], metavar="URL",
        help="a web page that may ask from a browser, such as http://localhost:3000; repeat it for several, * for all",
    )  # fmt: skip
    add_generation(parser)
    add_sampling(parser)
    add_video(parser)
    add_plugin(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted. Returns the exit status: 2 where the server could not start."""
    arguments = build_parser().parse_args(argv)
    try:
        load_given(arguments)

        from cambrian_gaze.extras import require

        require("starlette", "serve")
        defaults, options = (sampling_options(arguments), sampling_from(arguments)), gaze_options(arguments)

        from cambrian_gaze.cli.loading import load
        from cambrian_gaze.serving.chat import ChatModel
        from cambrian_gaze.serving.jobs import Defaults
        from cambrian_gaze.serving.server import ChatServer

        model, processor = load(arguments.model, arguments.device, arguments.adapter, arguments.system)
        model.model.resolve_gaze(options)
        if arguments.seed is not None:
            import torch

            torch.manual_seed(arguments.seed)
        chat = ChatModel(model, processor, arguments.name or Path(arguments.model).resolve().name, options)
        defaults = Defaults(arguments.max_new_tokens, *defaults)
        server = ChatServer(chat, arguments.host, arguments.port, defaults=defaults, origins=arguments.allow_origin)
    except (ImportError, OSError, ValueError) as error:
        print(f"cambrian-gaze serve: {one_line(error)}", file=sys.stderr)
        return 2
    host, port = server.server_address[:2]
    print(f"{chat.name!r} at http://{f'[{host}]' if ':' in host else host}:{port}/v1 (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    print("ended")
    return 0


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() else -1
    if not 0 <= port < 2**16:
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 0 to 65535")
    return port
