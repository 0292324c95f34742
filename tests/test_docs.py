"""Every fenced block and every link of the Markdown files: Python runs, data parses, commands must exist.

A shell command is claimed by one of `HANDLERS`; one that nobody claims fails, so that no page can show a command that
nobody checks. What the commands do is tested elsewhere: here it is their names, options and files.
"""

import contextlib
import functools
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from PIL import Image

from cambrian_gaze.cli.main import COMMANDS, main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGES = sorted(
    page
    for folder in (".", "docs", "train", "eval", "data_recipes")
    for page in ROOT.joinpath(folder).glob("*.md" if folder == "." else "**/*.md")
)
SHELL = {"bash", "sh", "shell", "console"}
SHOWN_ONLY = {"text", "bibtex", "diff"}


class Block(NamedTuple):
    """A fenced block: where it stands, its language and its text."""

    page: Path
    line: int
    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    found, fence, start, lines = [], None, 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        mark = re.match(r"\s*```\s*(\S*)", line)
        if fence is None and mark:
            fence, start, lines = mark.group(1), number, []
        elif fence is not None and mark:
            found.append(Block(page, start, fence, "\n".join(lines) + "\n"))
            fence = None
        elif fence is not None:
            lines.append(line)
    assert fence is None, f"{page}: the block of line {start} does not end"
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def block_id(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


def commands_of(text: str) -> list[list[str]]:
    """The commands of a shell block as words; environment assignments before a command are left out."""
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words:
            commands.append(words)
    return commands


def check_script(words: list[str]) -> None:
    """`./scripts/NAME.sh …` and `.ci/run`: there, executable, and fed with options that exist."""
    script = ROOT / words[0]
    assert os.access(script, os.X_OK), f"{words[0]} is missing or not executable"
    if script.name == "test.sh":
        check_pytest(["pytest", *words[1:]])
    elif script.name == "quickstart.sh":
        check_cambrian_gaze(["cambrian-gaze", "quickstart", *words[1:]])
    else:
        assert words[1:] == [], f"{words[0]} takes no arguments"


def check_pytest(words: list[str]) -> None:
    arguments = iter(words[1:])
    for word in arguments:
        if word == "-m":
            known = {marker.split(":")[0] for marker in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]}
            assert set(re.findall(r"\w+", next(arguments))) - {"not", "and", "or"} <= known
        elif word in ("-k", "-n"):
            next(arguments)
        elif not word.startswith("-"):
            assert (ROOT / word.split("::")[0]).exists(), f"no tests at {word}"


def check_pip(words: list[str]) -> None:
    assert words[1] == "install", words
    for word in words[2:]:
        if match := re.fullmatch(r"(?:\.|cambrian-gaze)\[(.+)\]", word):
            assert set(match.group(1).split(",")) <= set(PYPROJECT["project"]["optional-dependencies"])
        else:
            assert word in ("-e", "--editable", "."), f"unknown requirement {word}"


def check_cambrian_gaze(words: list[str]) -> None:
    if len(words) == 1 or words[1] in ("--help", "--version"):
        return
    from cambrian_gaze.training.config.config import known_keys

    name, arguments = words[1], words[2:]
    assert name in COMMANDS, f"no command {name}"
    if "--help" in arguments:
        return
    if name == "train":
        check_training(arguments)
    elif name == "plan":
        configs = [word for word in arguments if word.endswith(".yaml")]
        for config in configs:
            check_training([config])
        keys = {f"--{key}" for key in known_keys()}
        assert configs and {word for word in arguments if word.startswith("--")} <= options_of("plan") | keys
    else:
        groups = ("bench", "checkpoint", "convert", "data", "eval", "gaze", "gazebench", "study")
        action = arguments[:1] if name in groups else []
        missing = {word.split("=")[0] for word in arguments if word.startswith("--")} - options_of(name, *action)
        assert not missing, f"cambrian-gaze {name} has no {', '.join(sorted(missing))}"


@functools.cache
def options_of(*names: str) -> set[str]:
    """The options that `cambrian-gaze NAME … --help` lists."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*names, "--help"])
    return set(re.findall(r"--[\w-]+", text.getvalue()))


def check_training(arguments: list[str]) -> None:
    """The configuration exists, and each flag is a known key."""
    from cambrian_gaze.training.config.config import gather

    if arguments and not arguments[0].startswith("--"):
        arguments = [str(ROOT / arguments[0]), *arguments[1:]]
    gather(arguments)


def check_launcher(words: list[str]) -> None:
    """`torchrun … -m MODULE ARGUMENTS` (or `deepspeed`, `accelerate launch`) of this project's training."""
    where = words.index("-m") if "-m" in words else words.index("--module")
    assert words[where + 1] == "cambrian_gaze.cli.train", words
    assert (ROOT / (words[where + 1].replace(".", "/") + ".py")).is_file()
    check_training(words[where + 2 :])


def check_cluster(words: list[str]) -> None:
    """`scripts/cambrian/NAME.sh [ROW] …` and `sbatch … train.sbatch CONFIG …`: script, row and keys exist."""
    if words[0] == "sbatch":
        where = next(i for i, word in enumerate(words) if word.endswith(".sbatch"))
        script, config, flags = ROOT / words[where], words[where + 1], words[where + 2 :]
    else:
        script, flags = ROOT / words[0], words[1:]
        row = [flags.pop(0)] if flags and not flags[0].startswith("--") else []
        default = re.search(r"^row=\"?(\w*)", script.read_text(), re.MULTILINE).group(1)
        config = f"train/configs/{'_'.join([script.stem, *(row or filter(None, [default]))])}.yaml"
    assert os.access(script, os.X_OK), f"{script} is missing or not executable"
    check_training([config, *flags])


def check_place(words: list[str]) -> None:
    """Commands that only move about: `cd`, `source .venv/bin/activate`, `git clone`."""
    assert words[0] != "source" or words[1] == ".venv/bin/activate"


def check_site(words: list[str]) -> None:
    """`tests/test_site.py` runs it."""
    assert words == ["mkdocs", "build", "--strict"] and importlib.util.find_spec("mkdocs"), words


def check_tool(words: list[str]) -> None:
    assert shutil.which(words[0], path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"), words[0]


HANDLERS: dict[str, Callable[[list[str]], None]] = {
    "./scripts/canary.sh": check_script,
    "./scripts/gpu_check.sh": check_script,
    "./scripts/lock.sh": check_script,
    "./scripts/pictures.sh": check_script,
    "./scripts/quickstart.sh": check_script,
    "./scripts/test.sh": check_script,
    ".ci/run": check_script,
    "pytest": check_pytest,
    "pip": check_pip,
    "cambrian-gaze": check_cambrian_gaze,
    **{f"scripts/cambrian/{path.name}": check_cluster for path in ROOT.glob("scripts/cambrian/*.sh")},
    "sbatch": check_cluster,
    "torchrun": check_launcher,
    "deepspeed": check_launcher,
    "accelerate": check_launcher,
    "cd": check_place,
    "source": check_place,
    "git": check_place,
    "mkdocs": check_site,
    "hf": check_tool,
    "ruff": check_tool,
    "lint-imports": check_tool,
    "tensorboard": check_tool,
}


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in SHELL], ids=block_id)
def test_commands_exist(block: Block) -> None:
    commands = commands_of(block.text)
    assert commands, "an empty block"
    for words in commands:
        assert words[0] in HANDLERS, f"nobody checks {words[0]!r}; add a handler"
        HANDLERS[words[0]](words)


def write_quickstart(folder: Path) -> None:
    """What the quickstart leaves, as far as the pages name it: a model of its sizes, untrained, and a page."""
    from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor

    for kind in (CambrianGazeForConditionalGeneration, CambrianGazeProcessor):
        kind.from_preset("tiny").save_pretrained(folder / "runs" / "quickstart" / "gaze")
    page = folder / "runs" / "quickstart" / "data" / "images" / "heldout" / "00000.png"
    page.parent.mkdir(parents=True)
    Image.radial_gradient("L").convert("RGB").save(page)


@pytest.mark.parametrize("page", sorted({b.page for b in BLOCKS if b.language == "python"}), ids=lambda p: p.name)
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    """The blocks of a page run in order as one program, in a folder that has a picture, and for programs that name it
    what the quickstart leaves."""
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "page.png")
    blocks = [block.text for block in blocks_of(page) if block.language == "python"]
    # TRL is nobody's dependency: its block runs where it is installed.
    program = "".join(text for text in blocks if "trl" not in text or importlib.util.find_spec("trl"))
    if "runs/quickstart" in program:
        write_quickstart(tmp_path)
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in ("json", "jsonl", "yaml")], ids=block_id)
def test_data_blocks_parse(block: Block) -> None:
    if block.language == "yaml":
        assert yaml.safe_load(block.text) is not None
    else:
        for text in [block.text] if block.language == "json" else block.text.splitlines():
            json.loads(text)


@pytest.mark.parametrize("block", BLOCKS, ids=block_id)
def test_every_block_has_a_known_language(block: Block) -> None:
    assert block.language in SHELL | SHOWN_ONLY | {"python", "json", "jsonl", "yaml"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [t for t in targets if t and not t.startswith(("http://", "https://")) and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.slow
def test_commands_of_the_readme_do_what_it_says(tmp_path: Path) -> None:
    """Training on one's own data with the record that the README shows, then generation with what was trained."""
    readme = blocks_of(ROOT / "README.md")
    (record,) = (json.loads(block.text) for block in readme if block.language == "json")
    image = tmp_path / "images" / record["image"]
    image.parent.mkdir(parents=True)
    for path in (image, tmp_path / "page.png"):
        Image.radial_gradient("L").convert("RGB").save(path)
    for name in ("align", "finetune", "questions"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "train").symlink_to(ROOT / "train")
    write_quickstart(tmp_path)

    commands = [words for block in readme if block.language in SHELL for words in commands_of(block.text)]
    trainings = [[*words, "--max_steps", "1"] for words in commands if words[:2] == ["cambrian-gaze", "train"]]
    others = [w for w in commands if w[0] == "cambrian-gaze" and w[1] not in ("train", "quickstart")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for words in trainings + others:
        command = [sys.executable, "-m", "cambrian_gaze.cli.main", *words[1:]]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
        assert result.returncode == 0, f"{shlex.join(words)}\n{result.stderr}"
    assert (tmp_path / "runs" / "stage1" / "mm_projector.safetensors").is_file()
    assert (tmp_path / "gaze.png").is_file()
    assert (tmp_path / "answers.jsonl").read_text().count("\n") == 1


@pytest.mark.slow
def test_quickstart_script_runs_from_anywhere(tmp_path: Path) -> None:
    """The script itself, in the environment of this test, from another folder."""
    scripts = {**os.environ, "CAMBRIAN_GAZE_VENV": os.environ.get("CAMBRIAN_GAZE_VENV", str(ROOT / ".venv"))}
    if not (Path(scripts["CAMBRIAN_GAZE_VENV"]) / "bin" / "python").exists():
        pytest.skip("no environment made by the scripts; ./scripts/test.sh makes one")
    command = [str(ROOT / "scripts" / "quickstart.sh"), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=scripts, timeout=900)
    assert result.returncode == 0, result.stderr
    assert "--smoke" in result.stdout
