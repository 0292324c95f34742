"""Answers end with their turn, wherever a model comes from: a base-style tokenizer whose own end is another."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig, Qwen2ForCausalLM

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.models.attach import attach_gaze
from cambrian_gaze.models.conversion.initialise import initialise
from cambrian_gaze.models.export.dense import export_dense
from cambrian_gaze.models.export.precision import export_precision
from cambrian_gaze.models.generation_settings import end_tokens, settings_of_backbone
from cambrian_gaze.models.loading import load_to_answer
from cambrian_gaze.models.presets import load_tokenizer
from cambrian_gaze.serving.chat import ChatModel, parse_request
from tests.models._checkpoints import GAZE, convert, write_language_model, write_siglip, write_upstream
from tests.models.attach._families import onevision
from tests.models.conftest import ask, noise
from tests.training._runs import flags, run, write_data

BASE = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}
TURN, TEXT = "<|im_end|>", "<|endoftext|>"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base language model that says the end of the turn and nothing else, and does not know that it ends there; a
    tower."""
    root = tmp_path_factory.mktemp("base")
    write_siglip(root / "siglip")
    write_language_model(root / "llm", "qwen2")
    tokenizer = load_tokenizer("tiny")
    tokenizer.eos_token = tokenizer.pad_token = TEXT
    tokenizer.save_pretrained(root / "llm")
    turn, text = tokenizer.convert_tokens_to_ids([TURN, TEXT])
    model = Qwen2ForCausalLM.from_pretrained(root / "llm")
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 100.0
        model.model.norm.weight.copy_(torch.eye(32)[0])
        model.lm_head.weight.zero_()
        model.lm_head.weight[turn, 0] = 1.0
    model.config.eos_token_id = text
    model.generation_config = GenerationConfig(eos_token_id=text, bos_token_id=text, max_new_tokens=2048, **BASE)
    model.save_pretrained(root / "llm", max_shard_size="30KB")
    return root


@pytest.fixture(scope="module")
def trained(parts: Path) -> Path:
    """Trained from the language model and the tower for two steps, and saved."""
    data = write_data(parts / "data", list("itit"))
    out = parts / "trained"
    argv = flags(data, out, preset=None, model_name_or_path=parts / "llm", vision_tower=parts / "siglip", max_steps=2)
    argv = [flag for flag in argv if not flag.startswith("--model_overrides")]
    assert run([*argv, "--model_overrides", json.dumps(GAZE), "--learning_rate=1e-6", "--mm_projector_lr=1e-6"]) == 0
    return out


def ends(folder: Path) -> set[int]:
    tokenizer = load_tokenizer("tiny")
    said = GenerationConfig.from_pretrained(folder)
    assert not said.do_sample and said.temperature is None and said.repetition_penalty is None
    assert said.pad_token_id == tokenizer.convert_tokens_to_ids(TEXT)
    found = said.eos_token_id
    assert set(tokenizer.convert_tokens_to_ids([TURN, TEXT])) <= set(found), "the turn's end and the tokenizer's own"
    return set(found)


def stops(model: CambrianGazeForConditionalGeneration, processor: CambrianGazeProcessor) -> None:
    inputs = processor.apply_chat_template(ask(noise(0)), tokenize=True, add_generation_prompt=True)
    out = model.generate(**inputs, max_new_tokens=8)
    assert processor.tokenizer.convert_ids_to_tokens(out[0, inputs["input_ids"].shape[1] :].tolist()) == [TURN]


def test_trained_saved_and_loaded(trained: Path) -> None:
    ends(trained)
    checkpoints = sorted(trained.glob("checkpoint-*"))
    assert checkpoints
    for folder in (trained, *checkpoints):
        ends(folder)
    stops(AutoModelForImageTextToText.from_pretrained(trained).eval(), AutoProcessor.from_pretrained(trained))


def test_trained_further(trained: Path, tmp_path: Path) -> None:
    """A checkpoint that lacks the end gets it, and its own settings stay."""
    data = write_data(tmp_path / "data", list("it"))
    settings = GenerationConfig(eos_token_id=load_tokenizer("tiny").convert_tokens_to_ids(TEXT), max_new_tokens=77)
    settings.save_pretrained(trained.parent / "older")
    for file in trained.iterdir():
        if file.is_file() and file.name not in ("generation_config.json", "training_args.bin"):
            (trained.parent / "older" / file.name).write_bytes(file.read_bytes())
    argv = flags(data, tmp_path / "out", preset=None, model_overrides=None, model_name_or_path=trained.parent / "older")
    assert run([*argv, "--max_steps=1", "--learning_rate=1e-6"]) == 0
    ends(tmp_path / "out")
    assert GenerationConfig.from_pretrained(tmp_path / "out").max_new_tokens == 77
    stops(*load_to_answer(str(trained.parent / "older")))


def test_initialised(parts: Path, tmp_path: Path) -> None:
    names = (str(parts / "llm"), str(parts / "siglip"))
    report = initialise(tmp_path / "model", *names, overrides=GAZE, progress=False)
    ends(tmp_path / "model")
    assert GenerationConfig.from_pretrained(tmp_path / "model").max_new_tokens == 2048
    assert any("repetition_penalty=1.05" in note for note in report.notes), "what is left out is said"
    stops(*load_to_answer(str(tmp_path / "model")))
    initialise(tmp_path / "sampling", *names, overrides=GAZE, progress=False, keep_sampling=True)
    kept = GenerationConfig.from_pretrained(tmp_path / "sampling")
    assert {name: getattr(kept, name) for name in BASE} == BASE
    assert len(kept.eos_token_id) == 2


def test_converted_and_back(tmp_path: Path) -> None:
    write_siglip(tmp_path / "siglip")
    write_upstream(tmp_path / "up")
    own = {"eos_token_id": 3, "pad_token_id": 3, **BASE, "transformers_version": "4.37.0"}
    (tmp_path / "up" / "generation_config.json").write_text(json.dumps(own))
    convert(tmp_path, str(tmp_path / "siglip"))
    found = GenerationConfig.from_pretrained(tmp_path / "model")
    assert not found.do_sample and found.repetition_penalty is None
    assert set(found.eos_token_id) == {3, load_tokenizer("tiny").convert_tokens_to_ids(TURN)}
    from cambrian_gaze.models.conversion.to_cambrian import to_cambrian

    to_cambrian(tmp_path / "model", tmp_path / "back", progress=False)
    assert json.loads((tmp_path / "back" / "generation_config.json").read_text()) == own


def test_exported(trained: Path, tmp_path: Path) -> None:
    export_precision("bf16", trained, tmp_path / "bf16")
    ends(tmp_path / "bf16")
    dense = CambrianGazeForConditionalGeneration.from_pretrained(trained)
    dense.config.gaze |= {"num_context_tokens": 0}
    dense.model.gaze.context_tokens = None
    dense.save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "generation_config.json").unlink()
    processor = CambrianGazeProcessor.from_pretrained(trained)
    processor.num_context_tokens = 0
    processor.save_pretrained(tmp_path / "dense")
    export_dense("deepseek_vl", tmp_path / "dense", tmp_path / "engine")
    ends(tmp_path / "engine")


def test_served(trained: Path) -> None:
    model = CambrianGazeForConditionalGeneration.from_pretrained(trained).eval()
    model.generation_config = GenerationConfig(eos_token_id=load_tokenizer("tiny").convert_tokens_to_ids(TEXT))
    chat = ChatModel(model, CambrianGazeProcessor.from_pretrained(trained), "base")
    request = parse_request({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8})
    answer = chat.answer(request, chat.prepare(request))
    assert (answer.completion_tokens, answer.finish_reason, answer.text) == (1, "stop", "")


def test_answered(trained: Path, tmp_path: Path) -> None:
    from cambrian_gaze.cli.answer import main as answer
    from cambrian_gaze.cli.generate import main as generate

    data = write_data(tmp_path / "asked", list("it"))
    out = tmp_path / "answers.jsonl"
    common = ["--model", str(trained), "--device", "cpu", "--max_new_tokens", "8"]
    records = ["--data_path", str(data), "--image_folder", str(data.parent), "--output", str(out)]
    assert answer([*records, *common]) == 0
    entries = [json.loads(line) for line in out.read_text().splitlines()]
    assert [len(entry["tokens"]) for entry in entries] == [1, 1]
    assert generate(["--prompt", "hello", *common]) == 0


@pytest.mark.slow
def test_asked_by_lmms(trained: Path) -> None:
    pytest.importorskip("lmms_eval")
    from tests.evaluation.lmms.test_model import answer

    assert set(answer(trained)) == {""}


def test_attached_with_its_tokenizer() -> None:
    case, tokenizer = onevision(), load_tokenizer("tiny")
    attach_gaze(case.model, {"image": {"region_size": [1, 2, 2], "top_k": 1}}, tokenizer=tokenizer)
    assert tokenizer.convert_tokens_to_ids(TURN) in case.model.generation_config.eos_token_id


def test_presets_end_with_their_turn() -> None:
    """A model of a preset, with Qwen's own tokenizer: 151645 is its <|im_end|>, 151643 its <|endoftext|>."""
    for name in ("4b", "7b"):
        config = CambrianGazeForConditionalGeneration.config_class
        found = GenerationConfig.from_model_config(config.from_preset(name))
        assert set(found.eos_token_id) == {151645, 151643}


def test_a_tokenizer_without_the_turns_end_is_refused() -> None:
    class Tokenizer:
        eos_token_id, bos_token_id, pad_token_id = 1, None, None

        def get_vocab(self) -> dict[str, int]:
            return {"</s>": 1}

    with pytest.raises(ValueError, match=r"no <\|im_end\|>"):
        end_tokens(Tokenizer())
    with pytest.raises(ValueError, match="ChatML"):
        settings_of_backbone(Tokenizer())
