"""`cambrian-gaze chat`: talk to a model in the terminal; the picture is drawn there, and where it looks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from cambrian_gaze.cli.arguments import add_device, add_model, add_system, one_line, positive
from cambrian_gaze.cli.plugins import add_plugin, load_given

if TYPE_CHECKING:
    from cambrian_gaze.demo.session import Session
    from cambrian_gaze.demo.talk import Progress, Talker
    from cambrian_gaze.demo.terminal import Canvas

HELP = """/image PATH, /video PATH   show a picture or a video; the next question is about it, too
/k N                       regions per query, head and layer, from now on
/hide N …, /only N …       regions that it may not see, or alone; without numbers: everything again
/regions                   the numbers of the regions
/again                     answer the last question again
/save FILE                 the last answer's trace (.safetensors) or page (.html)
/new                       begin anew
/help, /quit               this text; the end (Ctrl-D, too)"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cambrian-gaze chat",
        description="Talk to a saved model about pictures and videos in the terminal. The picture stands there in "
        "half-blocks, and the regions that each word looked at light up as it comes. Colours as the terminal has them "
        "(COLORTERM, TERM, NO_COLOR). Commands begin with a slash; /help lists them.",
    )
    add_model(parser)
    parser.add_argument("--image", action="append", default=[], metavar="PATH", help="show it; repeat it for several")
    parser.add_argument("--video", metavar="PATH", help="show it")
    parser.add_argument("--top_k", type=positive, metavar="K", help="regions per query, head and layer")
    parser.add_argument("--max_new_tokens", type=positive, default=128, metavar="N", help="default: 128")
    parser.add_argument("--video_max_frames", type=positive, default=16, metavar="N", help="of a video; default: 16")
    add_system(parser)
    add_device(parser)
    add_plugin(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Chat until the input ends. Returns the exit status: 2 where the chat could not begin."""
    arguments = build_parser().parse_args(argv)
    try:
        load_given(arguments)

        from cambrian_gaze.cli.loading import load
        from cambrian_gaze.data.media.frame_sampling import FrameSampling
        from cambrian_gaze.demo.limits import Limits
        from cambrian_gaze.demo.session import Session
        from cambrian_gaze.demo.talk import Talker
        from cambrian_gaze.demo.terminal import Canvas

        frames = FrameSampling(video_max_frames=arguments.video_max_frames)
        limits = Limits(max_file=1 << 40, max_seconds=3600.0, max_new_tokens=arguments.max_new_tokens, frames=frames)
        model, processor = load(arguments.model, arguments.device, arguments.adapter, arguments.system)
        session, talker = Session(), Talker(model, processor, arguments.model, limits)
        session.steer(arguments.top_k, [], [])
        chat = Chat(talker, session, Canvas.of_terminal(is_terminal=sys.stdout.isatty()), sys.stdout)
        for path in [*arguments.image, *([arguments.video] if arguments.video else [])]:
            chat.show(path)
    except (ImportError, OSError, ValueError) as error:
        print(f"cambrian-gaze chat: {one_line(error)}", file=sys.stderr)
        return 2
    if sys.stdin.isatty():
        try:
            import readline  # noqa: F401  (input() then has a history)
        except ImportError:
            pass
        print("Ask; /help lists the commands, Ctrl-D ends it.")
    while (line := read_line()) is not None:
        if line.strip() in ("/quit", "/exit"):
            break
        chat.take(line)
    return 0


def read_line() -> str | None:
    """A line of input; None at its end."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        print()
        return None
    except KeyboardInterrupt:
        print()
        return ""


class Chat:
    """What a line of input does."""

    def __init__(self, talker: Talker, session: Session, canvas: Canvas, out: TextIO) -> None:
        self.talker, self.session, self.canvas, self.out = talker, session, canvas, out
        self._drawn = 0

    def take(self, line: str) -> None:
        """A question or a command; what is wrong with it is told in one line."""
        word, _, rest = line.strip().partition(" ")
        try:
            if not word.startswith("/"):
                if line.strip():
                    self.session.take(self.talker, line, [])
                    self.answer()
                return
            commands = {
                "/image": self.show, "/video": self.show, "/k": self.dial, "/hide": self.hide, "/only": self.only,
                "/regions": self.regions, "/again": self.answer, "/save": self.save, "/new": self.new,
                "/help": self.help,
            }  # fmt: skip
            if word not in commands:
                raise ValueError(f"no command {word}; /help lists them")
            commands[word](rest.strip())
        except (OSError, ValueError) as error:
            self.say(f"! {one_line(error)}")
        except KeyboardInterrupt:
            self.session.halt()
            self.say("\n(stopped)")

    def say(self, text: str, end: str = "\n") -> None:
        print(text, end=end, file=self.out, flush=True)

    def show(self, path: str) -> None:
        """A picture or a video, drawn as it is."""
        self.session.take(self.talker, "", [path] if path else [])
        self.say("\n".join(self.canvas.lines(self.session.items[-1].picture())))

    def dial(self, text: str) -> None:
        """K."""
        if not text.isdecimal() or int(text) < 1:
            raise ValueError("/k takes an integer of at least 1")
        self.steer(top_k=int(text))

    def hide(self, text: str) -> None:
        """Regions that it may not see."""
        self.steer(hidden=self.numbers(text), forced=[])

    def only(self, text: str) -> None:
        """Regions that it may see alone."""
        self.steer(hidden=[], forced=self.numbers(text))

    def steer(self, **change: object) -> None:
        """Another budget or other regions, from the next answer on."""
        now = self.session.steering
        parts = {"top_k": now.top_k, "hidden": sorted(now.hidden), "forced": sorted(now.forced)} | change
        self.session.steer(**parts)
        self.say(
            ", ".join(f"{name} {value}" for name, value in parts.items() if value) or "the model may look everywhere"
        )

    def numbers(self, text: str) -> list[int]:
        """Region numbers. Raises ValueError for what is none."""
        count = len(self.talker.boxes(self.session.conversation))
        if wrong := [word for word in text.split() if not word.isdecimal() or int(word) >= count]:
            raise ValueError(f"{wrong[0]!r} is no region; there are {count}, numbered from 0")
        return [int(word) for word in text.split()]

    def regions(self, text: str = "") -> None:
        """The numbers of the regions, by picture and frame, as they lie in it."""
        boxes = self.talker.boxes(self.session.conversation)
        width, before = len(str(len(boxes))), None
        for number, (item, first, _, _, left, _, _) in enumerate(boxes):
            if (item, first) != before:
                self.say(f"{'' if before is None else chr(10)}picture {item + 1}, frame {first + 1}", end="")
            self.say(("\n" if left == 0 else " ") + f"{number:{width}}", end="")
            before = item, first
        self.say("" if boxes else "no picture was shown")

    def answer(self, text: str = "") -> None:
        """The last question's answer, token by token."""
        from cambrian_gaze.demo.session import summary

        self._drawn, last = 0, None
        for last in self.session.answer(self.talker):
            self.draw(last)
        if last is not None:
            self.say(f"({summary(last)})")

    def draw(self, last: Progress) -> None:
        """Picture and words so far, over what was drawn before. Where the cursor cannot move (no terminal), the answer
        alone, once it is whole."""
        from cambrian_gaze.demo.terminal import gaze_lines

        moves = self.canvas.colours != "none"
        if not moves:
            if last.done:
                self.say(last.text)
            return
        trace = last.trace
        token = max((t for t, hidden in enumerate(trace.special) if not hidden), default=0)
        lines, name = gaze_lines(self.canvas, trace, token)
        word = trace.tokens[token].strip() if trace.tokens else ""
        lines += [f"“{word}” looks at {name}"] if lines else []
        lines += wrapped(last.text, self.canvas.columns)
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self.say(up + "\r\x1b[J" + "\n".join(lines))
        self._drawn = len(lines)

    def save(self, path: str) -> None:
        """The last answer as a file."""
        from cambrian_gaze.viz.viewer import write_viewer

        if self.session.trace is None or not self.session.trace.tokens:
            raise ValueError("there is no answer yet")
        if path.endswith(".html"):
            self.say(str(write_viewer(path, self.session.trace)))
        elif path.endswith(".safetensors"):
            self.say(str(self.session.trace.save(path)))
        else:
            raise ValueError("/save takes a name that ends with .safetensors or .html")

    def new(self, text: str = "") -> None:
        """Begin anew, with the same budget."""
        top_k = self.session.steering.top_k
        self.session.forget()
        self.session.steer(top_k, [], [])

    def help(self, text: str = "") -> None:
        self.say(HELP)


def wrapped(text: str, columns: int) -> list[str]:
    """Lines of at most so many characters, without what would move the cursor."""
    import textwrap

    clean = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
    return [part for line in clean.splitlines() for part in textwrap.wrap(line, columns) or [""]] or [""]
