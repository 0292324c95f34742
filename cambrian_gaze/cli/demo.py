"""`cambrian-gaze demo`: a page to talk to a model about pictures and videos, and to see and steer its gaze."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cambrian_gaze.cli.arguments import add_device, add_model, add_system, one_line, positive
from cambrian_gaze.cli.plugins import add_plugin, load_given


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze demo",
        description="Talk to a saved model about pictures and videos at http://HOST:PORT: words come with their gaze, "
        "a dial for K, regions to hide or to leave alone, dense, gaze and eviction beside each other. Needs the extra "
        "`demo`; loads nothing from the network. One question is answered at a time, without authentication.",
    )
    add_model(parser)
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1, this machine alone")
    parser.add_argument("--port", type=positive, default=7860, metavar="PORT", help="default: 7860")
    parser.add_argument("--name", metavar="NAME", help="what the page calls the model; default: as given to --model")
    parser.add_argument(
        "--max_new_tokens", type=positive, default=128, metavar="N", help="longest answer; default: 128"
    )
    parser.add_argument("--max_seconds", type=positive, default=120, metavar="S", help="for an answer; default: 120")
    parser.add_argument("--max_megabytes", type=positive, default=32, metavar="N", help="of an upload; default: 32")
    parser.add_argument("--video_max_frames", type=positive, default=16, metavar="N", help="of a video; default: 16")
    add_system(parser)
    add_device(parser)
    add_plugin(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted. Returns the exit status: 2 where the page could not start."""
    arguments = build_parser().parse_args(argv)
    try:
        load_given(arguments)

        from cambrian_gaze.extras import require

        require("gradio", "demo")

        from cambrian_gaze.cli.loading import load
        from cambrian_gaze.data.media.frame_sampling import FrameSampling
        from cambrian_gaze.demo.app import serve
        from cambrian_gaze.demo.limits import Limits
        from cambrian_gaze.demo.talk import Talker

        limits = Limits(
            max_file=arguments.max_megabytes << 20,
            max_new_tokens=arguments.max_new_tokens,
            max_seconds=float(arguments.max_seconds),
            frames=FrameSampling(video_max_frames=arguments.video_max_frames, video_timeout=30.0),
        )
        model, processor = load(arguments.model, arguments.device, arguments.adapter, arguments.system)
        talker = Talker(model, processor, arguments.name or arguments.model, limits)
        serve(talker, arguments.host, arguments.port)
    except (ImportError, OSError, ValueError) as error:
        print(f"cambrian-gaze demo: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    print("ended")
    return 0
