"""Folders are opened one way; what goes wrong on it is one line. (All commands over hostile folders:
`tests/cli/test_hostile_folders.py`.)"""

import re
import shutil
from pathlib import Path

import pytest
import torch

import cambrian_gaze
from cambrian_gaze import CambrianGazeConfig, CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.models.conversion.shards import Shards
from cambrian_gaze.models.folders.folder_check import FolderError, check_files
from cambrian_gaze.models.folders.opening import check_fit, open_config, open_tokenizer, opening, said_of
from cambrian_gaze.models.folders.source import NoSuchFolder
from cambrian_gaze.models.folders.template_probe import probe

PACKAGE = Path(cambrian_gaze.__file__).parent
OPENERS = re.compile(r"\bAuto(Config|Tokenizer|Processor|Model\w*)\.from_pretrained|\bsafe_open\(|\btorch\.load\(")
KNOWN = {
    "models/folders/opening.py",
    "models/conversion/shards.py",
    "models/folders/lineage.py",  # digests, of files that it has looked at
    "models/presets.py",  # tokenizers by their published names, and our own
    "models/export/dense.py",  # the tokenizer that it has just written
    "viz/trace_file.py",  # no model; it checks the file itself
    "bench/data_files.py",  # our own tokenizer
    "hub/card.py",  # of the folder that a push has checked; and examples in the text
    "hub/card_dense.py",
    "hub/push.py",
    "training/checkpoint/projector.py",
}


def test_nothing_else_opens_models() -> None:
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if OPENERS.search(path.read_text())}
    assert found <= KNOWN, "use models.opening: open_config, open_tokenizer, open_processor, or our classes"


def test_errors_become_one_line_that_names_the_folder(tmp_path: Path) -> None:
    long = RuntimeError("one\n  two\n" + "x" * 999)
    for error in (KeyError("a"), long, ValueError("a\nb"), RuntimeError(), OSError("c")):
        with pytest.raises(FolderError) as caught, opening(tmp_path):
            raise error
        told = str(caught.value)
        assert told.startswith(f"{tmp_path} cannot be loaded: ") and "\n" not in told and len(told) < 600
        assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [ImportError("x"), FolderError("it"), NoSuchFolder("it"), KeyboardInterrupt(), MemoryError(),
     torch.OutOfMemoryError("CUDA out of memory")],
)  # fmt: skip
def test_what_says_enough_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, said_of("it"):
        raise error
    assert caught.value is error


def test_a_folder_without_weights_is_an_oserror_as_in_transformers(tmp_path: Path) -> None:
    CambrianGazeConfig.from_preset("tiny").save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"must hold one of model\.safetensors"):
        CambrianGazeForConditionalGeneration.from_pretrained(tmp_path)


def test_the_hubs_own_errors_pass() -> None:
    error = OSError("offline")
    with pytest.raises(OSError, match="offline") as caught, opening("someone/model"):
        raise error
    assert caught.value is error


def test_code_of_the_hub_is_never_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code"))
    auto = '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", null]}}'
    (tmp_path / "config.json").write_text(auto)
    (tmp_path / "tokenizer_config.json").write_text(auto)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for way in (open_config, open_tokenizer):
        with pytest.raises(FolderError, match=re.escape(str(tmp_path))):
            way(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_our_classes_take_what_they_wrote_and_refuse_what_lacks(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = CambrianGazeForConditionalGeneration.from_preset("tiny")
    model.save_pretrained(tmp_path)
    CambrianGazeProcessor.from_preset("tiny").save_pretrained(tmp_path)
    check_files(tmp_path, copied="as it is")
    CambrianGazeForConditionalGeneration.from_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    lost = tensors.pop("model.mm_projector.0.bias")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FolderError, match=r"1 missing: model\.mm_projector\.0\.bias"):
        CambrianGazeForConditionalGeneration.from_pretrained(tmp_path)
    tensors["model.mm_projector.0.bias"] = lost[:-1].clone()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FolderError, match="1 of another shape"):
        CambrianGazeForConditionalGeneration.from_pretrained(tmp_path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    CambrianGazeForConditionalGeneration.from_preset("tiny").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", [str, Path])
def test_a_configuration_may_be_given_by_its_place(tiny: Path, tmp_path: Path, kind: type) -> None:
    CambrianGazeConfig.from_preset("tiny", context_tokens_std=0.25).save_pretrained(tmp_path)
    model = CambrianGazeForConditionalGeneration.from_pretrained(tiny, config=kind(tmp_path))
    assert model.config.context_tokens_std == 0.25


class WithValues(CambrianGazeForConditionalGeneration):
    """Somebody's own, with one more head."""

    def __init__(self, config: CambrianGazeConfig) -> None:
        super().__init__(config)
        self.v_head = torch.nn.Linear(config.text_config.hidden_size, 1)
        self.post_init()


def test_a_subclass_may_add_to_the_model_but_lack_nothing(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    assert WithValues.from_pretrained(tiny).v_head.weight.isfinite().all()
    tensors = load_file(tiny / "model.safetensors")
    del tensors["model.mm_projector.0.bias"]
    shutil.copy(tiny / "config.json", tmp_path)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for kind in (WithValues, CambrianGazeForConditionalGeneration):
        for off in ({}, {"ignore_mismatched_sizes": False, "variant": None, "subfolder": ""}):
            with pytest.raises(FolderError, match="1 missing"):
                kind.from_pretrained(tmp_path, **off)
    CambrianGazeForConditionalGeneration.from_pretrained(tmp_path, ignore_mismatched_sizes=True)


def test_types_of_numbers_are_the_loaders_matter(tiny: Path, tmp_path: Path) -> None:
    """Quantisers store what torch can hold, and this project need not know."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(tiny / "model.safetensors")
    name = "model.mm_projector.0.weight"
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu, torch.uint16):
        save_file({**tensors, name: tensors[name].abs().to(dtype)}, tmp_path / "model.safetensors")
        check_fit(CambrianGazeForConditionalGeneration, CambrianGazeConfig.from_pretrained(tiny), str(tmp_path))
        if dtype != torch.float8_e8m0fnu:
            assert Shards(tmp_path).tensor(name).dtype == dtype


def test_a_whole_file_beside_an_index_is_what_transformers_loads(tiny: Path, tmp_path: Path) -> None:
    for path in tiny.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    CambrianGazeForConditionalGeneration.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="delete the one that is not meant"):
        Shards(tmp_path)


def test_templates_that_are_fine_are_not_refused() -> None:
    qwen = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    assert probe(qwen) is None
    assert probe("{% generation %}a{% endgeneration %}{{ strftime_now('%Y') }}{{ messages | tojson }}") is None
    assert probe("{{ raise_exception('roles must alternate') }}") is None, "it says so when it is used"
    assert "endfor" in probe("{% for m in messages %}")


def test_templates_are_tried_without_what_lies_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("contextlib", "json", "resource", "jinja2", "transformers"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert probe("{{ messages | length }} in a folder of somebody else") is None
    assert not (tmp_path / "ran").exists()
