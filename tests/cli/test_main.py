import importlib
import subprocess
import sys
import time

import pytest

from cambrian_gaze import __version__
from cambrian_gaze.cli import main as cli

HEAVY = {"torch", "transformers", "numpy"}


def run_light(*arguments: str) -> tuple[str, float, set[str]]:
    """Output, seconds (best of three) and heavy modules imported by `cambrian-gaze ARGUMENTS` in fresh processes."""
    code = (
        "import sys\n"
        "from cambrian_gaze.cli.main import main\n"
        "try:\n"
        f"    main({list(arguments)!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        seconds.append(time.perf_counter() - start)
    return result.stdout, min(seconds), HEAVY & set(result.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    ["--help", "--version", "train --help", "quickstart --help", "generate --help", "answer --help", "cost --help"]
    + ["bench --help", "bench attention --help", "bench train-step --help"]
    + ["checkpoint --help", "checkpoint show --help", "export --help", "push --help", "serve --help"],
)
def test_help_takes_under_a_second_and_imports_nothing_heavy(arguments: str) -> None:
    output, seconds, heavy = run_light(*arguments.split())
    assert output
    assert not heavy
    assert seconds < 1.0


def test_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(f"  {name} " in output and command.summary in output for name, command in cli.COMMANDS.items())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"cambrian-gaze {__version__}\n"


def test_no_command_shows_the_overview_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage: cambrian-gaze" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [("trian", "did you mean 'train'"), ("quick", "did you mean 'quickstart'"), ("zzz", "choose from")],
)
def test_unknown_command_names_the_nearest(given: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([given]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_exists(name: str) -> None:
    module, _, function = cli.COMMANDS[name].target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
