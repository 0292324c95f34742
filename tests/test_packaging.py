"""What a user installs and imports: the wheel's content, the cost of `import cambrian_gaze`, the Auto classes."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from cambrian_gaze import extras

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, PASSED = PYPROJECT["project"], PYPROJECT["tool"]["cambrian-gaze"]["passed"]


def run_python(code: str) -> str:
    """Standard output of `code` in a fresh interpreter."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=240)
    assert result.returncode == 0, result.stderr
    return result.stdout


DECLARATIONS = [
    path.relative_to(ROOT).as_posix()
    for folder in ("train", "eval", "data_recipes")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".yaml", ".json")
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by way of the sdist from a copy, so that the checkout stays clean."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("cambrian_gaze", "tests", "train", "eval", "data_recipes", "scripts"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", source / "dist", source]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = (source / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_has_one_top_level_package(wheel_names: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"cambrian_gaze"}


def test_wheel_has_every_module_and_asset(wheel_names: list[str]) -> None:
    package = ROOT / "cambrian_gaze"
    wanted = [p for p in package.rglob("*.py")] + [p for p in (package / "assets").rglob("*") if p.is_file()]
    native = package / "attention" / "native"
    wanted += [p for p in native.iterdir() if p.suffix in (".cpp", ".h")]
    expected = {p.relative_to(ROOT).as_posix() for p in wanted}
    expected |= {f"cambrian_gaze/shipped/{name}" for name in DECLARATIONS}
    compiled = {name for name in wheel_names if name.endswith(".so")}
    assert {name for name in wheel_names if name.startswith("cambrian_gaze/")} - compiled == expected
    assert {Path(name).parent for name in compiled} <= {native.relative_to(ROOT)}
    if sys.platform == "linux" and shutil.which("c++"):
        assert {Path(name).name.partition(".")[0] for name in compiled} >= {"decode_any"}
    assert any(name.startswith("cambrian_gaze/assets/tiny/") for name in expected)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess]:
    """Runs `cambrian-gaze` of an installed copy in an empty folder, where the repository is not to be seen."""
    packages, empty = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("empty")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    start = "import sys; from cambrian_gaze.cli.main import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1"}

    def run(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", start, *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=empty, timeout=280, env=environment)

    return run


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["plan", "train/configs/stage1.yaml"], 0, "train/configs/stage1.yaml on 8"),
        (["plan", "train/configs/finetune.yaml"], 2, "no such folder: runs/stage2"),
        (["train", "train/configs/stage1.yaml"], 2, "data_path"),
        (["eval", "table", "eval/tables/table1.yaml", "--row", "none"], 1, "Cambrian-4B"),
        (["eval", "doctor", "--tasks", "eval/suites/quick.yaml", "--data-root", "."], 1, "no local copy"),
        (["data", "check", "data_recipes/cambrian_align.yaml"], 1, "data/alignment_2.5m.jsonl"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_installed_copy_finds_its_declarations(installed, words: list[str], status: int, told: str) -> None:
    result = installed(*words)
    assert result.returncode == status, result.stdout + result.stderr
    assert told in result.stdout + result.stderr


@pytest.mark.slow
def test_an_installed_copy_runs_the_quickstart(installed) -> None:
    result = installed("quickstart", "--smoke")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Open runs/quickstart-smoke/report.html" in result.stdout


def test_wheel_carries_the_license(wheel_names: list[str]) -> None:
    assert any(name.endswith("licenses/LICENSE") for name in wheel_names)


def test_extras_are_those_of_pyproject() -> None:
    declared = set(PROJECT["optional-dependencies"]) - {"test", "all"}
    assert set(extras.EXTRA_MODULES) == declared


def declared() -> list[Requirement]:
    """Every requirement of the project and its extras, but those on its own extras, and of extras that no lock of ours
    holds together with the others."""
    extras = {name: texts for name, texts in PROJECT["optional-dependencies"].items() if name not in ("lmms", "flash")}
    texts = [*PROJECT["dependencies"], *(text for extra in extras.values() for text in extra)]
    return [one for one in map(Requirement, texts) if one.name != PROJECT["name"]]


def locked(name: str) -> dict[str, set[Version]]:
    """Package → versions that a file of requirements/ holds, over all systems and Pythons."""
    found: dict[str, set[Version]] = {}
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        if line and not line.startswith("#"):
            one = Requirement(line)
            found.setdefault(canonicalize_name(one.name), set()).add(Version(str(one.specifier).removeprefix("==")))
    return found


def minor(version: Version) -> tuple[int, int]:
    return version.major, version.minor


MAY_CHANGE = {"torch", "transformers", "accelerate", "deepspeed", "datasets", "peft", "torchao", "bitsandbytes"}
"""Dependencies whose minor releases have broken users: each has an upper bound."""


@pytest.mark.parametrize("file", ["lock.txt", "oldest.txt"])
def test_locks_hold_everything_that_is_declared(file: str) -> None:
    held = locked(file)
    for one in declared():
        versions = held[canonicalize_name(one.name)]
        assert all(version in one.specifier for version in versions), (one, versions)


def test_the_lock_of_lmms_holds_what_it_shares_with_the_project() -> None:
    held, own = locked("lmms.txt"), locked("lock.txt")
    for one in map(Requirement, PROJECT["optional-dependencies"]["lmms"]):
        assert all(version in one.specifier for version in held[canonicalize_name(one.name)])
    assert held["torch"] == own["torch"] and held["transformers"] == own["transformers"]


def test_no_range_ends_beyond_what_passed() -> None:
    held, bounded = locked("lock.txt"), set()
    for one in declared():
        for bound in (Version(part.version) for part in one.specifier if part.operator in ("<", "<=")):
            name = canonicalize_name(one.name)
            newest = max([*held[name], *map(Version, PASSED.get(name, []))])
            assert minor(bound) == (newest.major, newest.minor + 1), f"{one}: newest that passed is {newest}"
            bounded.add(name)
    assert MAY_CHANGE <= bounded


def test_ranges_begin_with_what_passed() -> None:
    oldest = locked("oldest.txt")
    for name, passed in PASSED.items():
        (one,) = (one for one in declared() if one.name == name)
        (floor,) = (Version(part.version) for part in one.specifier if part.operator == ">=")
        assert minor(floor) == minor(min(map(Version, passed)))
        assert {minor(version) for version in oldest[name]} == {minor(floor)}


def test_scripts_install_the_lock() -> None:
    script = (ROOT / "scripts" / "lib" / "venv.sh").read_text()
    assert "requirements/lock.txt" in script and not re.search(r"torch==\d", script)


def test_require_names_the_pip_command() -> None:
    assert extras.require("math", extra="video").pi > 3
    with pytest.raises(ImportError, match=r"pip install 'cambrian-gaze\[video\]'"):
        extras.require("no_such_module_here", extra="video")
    with pytest.raises(ValueError, match="unknown extra 'vidoe'"):
        extras.require("math", extra="vidoe")


def test_import_is_light() -> None:
    heavy = ["torch", "transformers", "deepspeed", "datasets", "wandb", "decord", "matplotlib", "sklearn"]
    code = f"import sys, cambrian_gaze; print([name for name in {heavy} if name in sys.modules])"
    assert run_python(code).strip() == "[]"


KNOWN = """
import inspect, sys
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto import configuration_auto
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
config = AutoConfig.for_model("cambrian_gaze")
model = AutoModelForImageTextToText._model_mapping[type(config)]
print(type(config).__name__, model.__name__, PROCESSOR_MAPPING[type(config)].__name__)
print([name for name in ("deepspeed", "datasets", "wandb", "decord") if name in sys.modules])
traces = [type(finder) for finder in sys.meta_path if "moved" not in type(finder).__module__]
for module in (configuration_auto, inspect.getmodule(model)):
    assert inspect.getsource(module)
    traces += [type(module.__loader__), type(module.__spec__.loader)]
print([trace.__name__ for trace in traces if trace.__module__.startswith("cambrian_gaze")])
"""

ORDERS = [
    "import cambrian_gaze",
    "from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor; import cambrian_gaze",
    "import cambrian_gaze.models.modeling",
]
MORE_ORDERS = [
    "import transformers; import cambrian_gaze",
    "import cambrian_gaze; from transformers import AutoProcessor",
    "import cambrian_gaze; from transformers import PreTrainedModel",
    "import cambrian_gaze; from transformers import Trainer, pipeline",
    "from transformers import Qwen3Model; import cambrian_gaze; import cambrian_gaze.models.modeling",
    "import cambrian_gaze.models.processing.processor",
    "import cambrian_gaze.models.auto",
    "from cambrian_gaze import CambrianGazeConfig",
    "import cambrian_gaze, importlib; importlib.reload(cambrian_gaze)",
]


@pytest.mark.parametrize("imports", ORDERS + [pytest.param(order, marks=pytest.mark.slow) for order in MORE_ORDERS])
def test_auto_classes_know_the_model_in_every_order(imports: str) -> None:
    """They know it, no optional dependency was imported for it, and the watching has left no trace."""
    known, optional, traces = run_python(imports + "\n" + KNOWN).splitlines()
    assert known == "CambrianGazeConfig CambrianGazeForConditionalGeneration CambrianGazeProcessor"
    assert traces == "[]"
    if "Trainer" not in imports:  # which imports `datasets` by itself where it is installed
        assert optional == "[]"


def test_attributes_are_lazy_and_unknown_ones_fail() -> None:
    import cambrian_gaze

    assert set(cambrian_gaze.__all__) <= set(dir(cambrian_gaze))
    assert cambrian_gaze.GazeConfig.__module__ == "cambrian_gaze.gaze.config"
    with pytest.raises(AttributeError, match="no attribute 'GazeConfg'"):
        cambrian_gaze.GazeConfg  # noqa: B018
