"""Every command that opens a model's, tower's, tokenizer's or adapter's folder, over folders that strangers changed:
it ends with one line that names the folder, and nothing of it is run, waited for or taken from elsewhere."""

import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cambrian_gaze.cli.main import main
from tests.cli._hostile import CASES, Case, in_the_hubs_cache
from tests.models._checkpoints import write_language_model, write_siglip, write_upstream
from tests.training._runs import flags, write_data

SECONDS = 120
MEMORY = 6 << 30

MODEL = ("config", "weights")
WHOLE = (*MODEL, "tokenizer", "processor")

COMMANDS: dict[str, tuple[str, tuple[str, ...], list[str]]] = {
    "generate": (
        "model",
        (*WHOLE, "generation", "template", "our model"),
        ["generate", "--model", "{model}", "--prompt", "a"],
    ),
    "answer": (
        "model",
        (*WHOLE, "generation"),
        ["answer", "--model={model}", "--data_path={data}", "--image_folder={pages}", "--output={out}.jsonl"],
    ),
    "generate with an adapter": (
        "adapter",
        ("adapter", "config", "tokenizer", "processor"),
        ["generate", "--model", "{model}", "--adapter", "{adapter}", "--prompt", "a"],
    ),
    "export bf16": (
        "model",
        (*WHOLE, "generation", "our model", "link"),
        ["export", "--model", "{model}", "--format", "bf16", "--out", "{out}"],
    ),
    "export llava": (
        "dense",
        (*WHOLE, "generation", "link"),
        ["export", "--model", "{dense}", "--format", "llava", "--out", "{out}"],
    ),
    "merge, the base": (
        "model",
        (*MODEL, "generation", "link"),
        ["merge", "--model", "{model}", "--adapter", "{adapter}", "--out", "{out}"],
    ),
    "merge, the adapter": (
        "adapter",
        ("adapter", "config", "tokenizer", "processor", "lineage", "link"),
        ["merge", "--model", "{model}", "--adapter", "{adapter}", "--out", "{out}"],
    ),
    "push": (
        "model",
        (*MODEL, "lineage", "link", "link to weights"),
        ["push", "{model}", "--repo", "me/it", "--dry_run"],
    ),
    "show": ("model", ("lineage",), ["checkpoint", "show", "{model}", "--verify"]),
    "init, the language model": (
        "llm",
        (*MODEL, "tokenizer", "generation", "link"),
        ["init", "--llm", "{llm}", "--vision", "{tower}", "--out", "{out}"],
    ),
    "init, the tower": (
        "tower",
        (*MODEL, "link"),
        ["init", "--llm", "{llm}", "--vision", "{tower}", "--out", "{out}"],
    ),
    "from-cambrian": (
        "upstream",
        (*MODEL, "tokenizer", "generation", "link"),
        ["convert", "from-cambrian", "{upstream}", "--vision", "{tower}", "--out", "{out}"],
    ),
    "to-cambrian": (
        "dense",
        (*MODEL, "tokenizer", "link"),
        ["convert", "to-cambrian", "{dense}", "--model_type=cambrian_qwen3", "--tower=it", "--out={out}"],
    ),
    "train, a saved model": ("model", (*WHOLE, "our model"), ["train", "--model_name_or_path={model}"]),
    "train, a language model": (
        "llm",
        (*MODEL, "tokenizer", "generation"),
        ["train", "--model_name_or_path={llm}", "--vision_tower={tower}"],
    ),
    "train, a tower": ("tower", MODEL, ["train", "--model_name_or_path={llm}", "--vision_tower={tower}"]),
    "plan": ("model", ("config",), ["plan", "{plan}", "--model_name_or_path={model}"]),
    "data preview": (
        "model",
        ("config", "tokenizer", "processor"),
        ["data", "preview", "{data}", "--model", "{model}", "--image_folder", "{pages}", "--out", "{out}"],
    ),
    "data stats": (
        "model",
        ("tokenizer", "processor"),
        ["data", "stats", "{data}", "--model", "{model}", "--image_folder", "{pages}", "--out", "{out}"],
    ),
}
"""Command → the folder that is spoilt, the groups of cases that it must refuse, its words."""

HARMLESS = {
    ("plan", "config.json says hidden_size: 96"),
    ("plan", "config.json names a foreign model"),
    ("data preview", "config.json says hidden_size: 96"),
    ("data preview", "config.json is missing"),
}
"""`plan` reads no weights, and takes any language model; `data preview` wants K, and goes without."""


class TookTooLong(BaseException):
    """No handler takes it for an error of the folder."""


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound folder of each kind, and data."""
    import torch
    from peft import LoraConfig, get_peft_model

    from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
    from cambrian_gaze.models.folders.lineage import parent, write_lineage

    root = tmp_path_factory.mktemp("sound")
    for name, overrides in (("model", {}), ("dense", {"gaze": {"num_context_tokens": 0}})):
        model = CambrianGazeForConditionalGeneration.from_preset("tiny", **overrides)
        model.save_pretrained(root / name)
        CambrianGazeProcessor.from_preset("tiny", **overrides).save_pretrained(root / name)
        write_lineage(root / name, "a test")
    torch.manual_seed(0)
    adapted = get_peft_model(
        CambrianGazeForConditionalGeneration.from_pretrained(root / "model"),
        LoraConfig(r=2, target_modules=["q_proj", "v_proj"]),
    )
    adapted.save_pretrained(root / "adapter")
    adapted.get_base_model().config.save_pretrained(root / "adapter")
    CambrianGazeProcessor.from_pretrained(root / "model").save_pretrained(root / "adapter")
    write_lineage(root / "adapter", "a test", [parent("model", root / "model")])
    write_language_model(root / "llm", "qwen2")
    write_siglip(root / "tower")
    write_upstream(root / "upstream", tower_prefix=None)
    write_data(root / "pages", ["i", "t"])
    (root / "plan.yaml").write_text("stage: 2\noutput_dir: out\ndata_path: d.jsonl\n")
    return root


@pytest.fixture
def guarded() -> Iterator[None]:
    """Ends what hangs, and what takes much memory."""

    def late(*_: object) -> None:
        raise TookTooLong(f"still running after {SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def words_of(command: str, places: dict[str, str]) -> list[str]:
    words = [word.format(**places) for word in COMMANDS[command][2]]
    if words[0] == "train":
        changes = {name: None for name in ("preset", "model_overrides") if "llm" in str(COMMANDS[command][2])}
        run = {**changes, "max_steps": 1} if changes else {"preset": None, "model_overrides": None, "max_steps": 1}
        words += flags(Path(places["pages"]) / "train.jsonl", Path(places["out"]), **run)
    return words


def end_of(words: list[str]) -> int:
    try:
        return main(words)
    except SystemExit as end:
        return end.code


def places_of(sound: Path, tmp_path: Path) -> dict[str, str]:
    places = {place.name: str(place) for place in sound.iterdir() if place.is_dir()}
    return {
        **places,
        "data": str(sound / "pages" / "train.jsonl"),
        "plan": str(sound / "plan.yaml"),
        "out": str(tmp_path / "out"),
    }


def pairs() -> Iterator[object]:
    """Every case for every command that minds; by default every third, and the rest as slow."""
    found = [
        (command, case)
        for command, (_, groups, _) in COMMANDS.items()
        for case in CASES
        if case.group in groups and (command, case.name) not in HARMLESS
    ]
    for number, (command, case) in enumerate(found):
        marks = [pytest.mark.slow] if number % 3 else []
        yield pytest.param(command, case, id=f"{command}: {case.name}", marks=marks)


@pytest.mark.parametrize(("command", "case"), pairs())
def test_it_ends_with_one_line(
    command: str, case: Case, sound: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], guarded: None
) -> None:
    spoilt, places = COMMANDS[command][0], places_of(sound, tmp_path)
    folder = tmp_path / "it" / spoilt
    shutil.copytree(sound / spoilt, folder)
    case.spoil(folder)
    status = end_of(words_of(command, places | {spoilt: str(folder)}))
    told = capfd.readouterr().err
    assert status in (1, 2), told
    assert "Traceback" not in told
    said = [line for line in told.splitlines() if line.startswith("cambrian-gaze ")]
    assert len(said) == 1 and told.strip().splitlines()[-1] == said[0], told
    assert str(folder) in said[0] and len(said[0]) < 1500, said
    assert not (folder.parent / "ran").exists()
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize("command", COMMANDS)
def test_snapshots_of_the_hubs_cache_are_taken(command: str, sound: Path, tmp_path: Path, guarded: None) -> None:
    spoilt = COMMANDS[command][0]
    shutil.copytree(sound / spoilt, tmp_path / "it" / spoilt)
    in_the_hubs_cache(tmp_path / "it" / spoilt)
    assert end_of(words_of(command, places_of(sound, tmp_path) | {spoilt: str(tmp_path / "it" / spoilt)})) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_sound_folders_are_taken(command: str, sound: Path, tmp_path: Path, guarded: None) -> None:
    places = places_of(sound, tmp_path)
    for name in ("model", "dense", "adapter"):
        shutil.copytree(sound / name, tmp_path / name)
        places[name] = str(tmp_path / name)
    assert end_of(words_of(command, places)) == 0
