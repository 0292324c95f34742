"""Chat templates from somewhere, tried out in a process of their own before one is rendered here: a template is a
program, which may loop for ever or fill the memory, and Python cannot be told to stop it."""

from __future__ import annotations

import functools
import signal

from cambrian_gaze.children import OWN_MODULES, START_SECONDS, try_out

LONGEST = 1_000_000
"""Characters of a template; published ones have up to 20,000."""
SECONDS = 3
"""Of the processor, that a short conversation may take to render; published ones take milliseconds."""
MEMORY = 1 << 30
"""Bytes that rendering may take."""
_CONVERSATION = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hello"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
    {"role": "user", "content": [{"type": "text", "text": "And here?"}]},
]

_PROBE = (
    OWN_MODULES
    + """
import contextlib, json, resource
from transformers.utils.chat_template_utils import render_jinja_template
import jinja2
given = json.load(sys.stdin)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
spent = resource.getrusage(resource.RUSAGE_SELF)
seconds = int(spent.ru_utime + spent.ru_stime) + 1 + given["seconds"]
for kind, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, used + given["memory"])):
    with contextlib.suppress(ValueError, OSError):  # a system without this limit, such as macOS
        resource.setrlimit(kind, (most, most))
try:
    render_jinja_template([given["conversation"]], chat_template=given["template"], add_generation_prompt=True)
except jinja2.TemplateSyntaxError as error:
    print(f"line {error.lineno}: {error.message}")
    sys.exit(3)
except (MemoryError, RecursionError) as error:
    print(type(error).__name__)
    sys.exit(3)
except Exception:
    pass  # it does not take this conversation
"""
)


@functools.lru_cache(maxsize=64)
def probe(template: str) -> str | None:
    """What is wrong with a template: its syntax, or that it takes too long or too much memory for three short turns;
    None where nothing is. One that refuses these turns, or fails otherwise, does so when it is used."""
    if len(template) > LONGEST:
        return f"it has {len(template)} characters, more than any needs ({LONGEST})"
    given = {"template": template, "conversation": _CONVERSATION, "seconds": SECONDS, "memory": MEMORY}
    done = try_out(_PROBE, given)
    if done is None:
        return f"it was not rendered within {START_SECONDS} s"
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"it takes more than {SECONDS} s for three short turns"
    if done.returncode == 3:
        return " ".join(done.stdout.split())[:300]
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        return f"rendering it ended with status {done.returncode} ({last[0][:200]})"
    return None
