"""What the parent says before every conversation, kept with a converted checkpoint and said wherever it answers."""

import json
from pathlib import Path

import pytest
import torch

from cambrian_gaze import CambrianGazeProcessor
from cambrian_gaze.data.mixture.recipe import recipe_of, with_system
from cambrian_gaze.evaluation.fingerprint import processor_fingerprint
from cambrian_gaze.models.conversion.cambrian import SYSTEM_PROMPT, Choices, check_config
from cambrian_gaze.models.loading import load_to_answer
from cambrian_gaze.serving.chat import ChatModel, parse_request
from tests.models._checkpoints import convert, write_upstream
from tests.models.conftest import ask, noise
from tests.training._runs import write_data

TURN = f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n"


@pytest.fixture
def converted(siglip: str, tmp_path: Path) -> Path:
    write_upstream(tmp_path / "up")
    report = convert(tmp_path, siglip)
    assert any(SYSTEM_PROMPT in note for note in report.notes)
    return tmp_path / "model"


def prompt(processor: CambrianGazeProcessor, messages: list) -> str:
    inputs = processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    return processor.tokenizer.decode(inputs["input_ids"][0])


def test_it_is_said_unless_the_conversation_or_the_user_says_otherwise(converted: Path) -> None:
    processor = CambrianGazeProcessor.from_pretrained(converted)
    assert prompt(processor, ask(text="hello")).startswith(TURN + "<|im_start|>user\n")
    assert processor.apply_chat_template(ask(text="hello")).startswith(TURN), "rendered too"
    own = [{"role": "system", "content": "Be brief."}, *ask(text="hello")]
    assert "helpful" not in prompt(processor, own) and "Be brief." in prompt(processor, own)
    rows = [ask(noise(0), text="hello"), own]
    batch = processor.apply_chat_template(rows, tokenize=True, add_generation_prompt=True)
    texts = [processor.tokenizer.decode(ids) for ids in batch["input_ids"]]
    assert SYSTEM_PROMPT in texts[0] and SYSTEM_PROMPT not in texts[1]
    assert "system" not in prompt(CambrianGazeProcessor.from_preset("tiny"), ask(text="hello"))
    for said, expected in (("Be kind.", "Be kind."), ("", None)):
        _, other = load_to_answer(str(converted), system=said)
        text = prompt(other, ask(text="hello"))
        assert SYSTEM_PROMPT not in text and (expected is None or expected in text) and ("system" in text) == bool(said)
        assert processor_fingerprint(other) != processor_fingerprint(processor), "answers are other answers"


def test_every_command_says_it(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cambrian_gaze import CambrianGazeForConditionalGeneration
    from cambrian_gaze.cli import answer, generate
    from cambrian_gaze.cli.eval import evaluate

    asked: list[str] = []
    processor = CambrianGazeProcessor.from_pretrained(converted)
    real = CambrianGazeForConditionalGeneration.generate

    def noting(self, **kwargs):
        asked.extend(processor.tokenizer.decode(ids) for ids in kwargs["input_ids"])
        return real(self, **kwargs)

    monkeypatch.setattr(CambrianGazeForConditionalGeneration, "generate", noting)
    common = ["--model", str(converted), "--device", "cpu", "--max_new_tokens", "2"]
    assert generate.main(["--prompt", "hello", *common]) == 0
    assert generate.main(["--prompt", "hello", "--system", "Be kind.", *common]) == 0
    assert SYSTEM_PROMPT in asked[0] and "Be kind." in asked[1] and SYSTEM_PROMPT not in asked[1]
    data, out = write_data(tmp_path / "asked", list("it")), tmp_path / "answers.jsonl"
    records = ["--data_path", str(data), "--image_folder", str(data.parent), "--output", str(out)]
    del asked[:]
    assert answer.main([*records, *common]) == 0 and len(asked) == 2 and all(SYSTEM_PROMPT in text for text in asked)
    assert answer.main([*records, *common, "--system", ""]) == 0
    assert len(asked) == 4 and not any("system" in text for text in asked[2:]), "other prompts: asked anew"
    words = ["--model", "m", "--tasks", "mme", "--output", "o", "--system", "x"]
    parsed = evaluate.build_parser("run").parse_args(words)
    assert parsed.system == "x"


def test_it_is_served_and_streamed(converted: Path) -> None:
    model, processor = load_to_answer(str(converted))
    chat = ChatModel(model, processor, "cambrian")
    request = parse_request({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2})
    assert TURN in processor.tokenizer.decode(chat.prepare(request)["input_ids"][0])
    stream = model.stream(processor)
    stream.append([noise(0, (32, 32))])
    assert processor.tokenizer.decode(stream.input_ids[0]).startswith(TURN + "<|im_start|>user\n")
    assert torch.is_tensor(stream.ask("what?", max_new_tokens=1).ids)


def test_training_says_it_where_no_recipe_does(converted: Path, tmp_path: Path) -> None:
    """What is fine-tuned is prompted as it will be asked; a source's own prompt stays."""
    data = write_data(tmp_path / "data", list("t"))
    processor = CambrianGazeProcessor.from_pretrained(converted)
    recipe = recipe_of([str(data)], str(data.parent), None)
    assert [source.system_prompt for source in with_system(recipe, processor).sources] == [SYSTEM_PROMPT]
    said = tmp_path / "said.yaml"
    said.write_text(json.dumps({"name": "said", "datasets": [{"path": str(data), "system_prompt": "Mine."}]}))
    own = recipe_of([str(said)], str(data.parent), None)
    assert [source.system_prompt for source in with_system(own, processor).sources] == ["Mine."]


def test_pooled_frames_are_refused_or_chosen() -> None:
    config = {"mm_projector_type": "mlp2x_gelu", "mm_spatial_pool_stride": 2, "mm_spatial_pool_mode": "bilinear"}
    with pytest.raises(ValueError, match="mm_spatial_pool_stride is 2.*--pooling native"):
        check_config(config, (24, 24), False, Choices())

    def notes(stride: int, choices: Choices) -> list[str]:
        found = check_config(config | {"mm_spatial_pool_stride": stride}, (24, 24), False, choices)
        return [note for note in found if "pool" in note or "answers about videos differ" in note]

    (note,) = notes(2, Choices(pooling="native"))
    assert "answers about videos differ" in note
    assert notes(1, Choices()) == []
