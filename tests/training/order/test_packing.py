"""A pack is its samples one by one: logits, losses and gradients; and a run with packing learns from every sample."""

import json
import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.attention.registry import BACKENDS
from cambrian_gaze.data.collator import Collator
from cambrian_gaze.data.dataset import ConversationDataset, SampleOptions
from cambrian_gaze.data.mixture.plan import Pack
from cambrian_gaze.data.records.records import read_records
from cambrian_gaze.training import run
from cambrian_gaze.training.config import config
from cambrian_gaze.training.metrics.log import read_log
from tests.training._runs import flags

DENSE = {"top_k": 100}
ROUTED = {"top_k": 2}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Text; text around a picture; two pictures; a video of three frames."""
    folder = tmp_path_factory.mktemp("samples")
    noise = random.Random(0)
    for number in range(3):
        Image.frombytes("RGB", (64, 64), noise.randbytes(64 * 64 * 3)).save(folder / f"{number}.png")
    frames = [f"{number}.png" for number in range(3)]
    rows = [
        ({}, "Hello?", "Read B3"),
        ({"image": "0.png"}, "Look <image> and read", "B3 7"),
        ({"image": ["1.png", "2.png"]}, "<image><image> Compare", "They differ"),
        ({"video": frames}, "<video> What moves?", "All of it"),
    ]
    lines = [
        {**media, "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]}
        for media, asked, answer in rows
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    processor = CambrianGazeProcessor.from_preset("tiny")
    options = SampleOptions(on_error="raise")
    data = ConversationDataset(read_records(folder / "rows.jsonl"), processor, folder, options=options)
    return [data[number] for number in range(len(data))]


@pytest.fixture(scope="module")
def model() -> CambrianGazeForConditionalGeneration:
    torch.manual_seed(0)
    model = CambrianGazeForConditionalGeneration.from_preset("tiny").eval()
    with torch.no_grad():
        model.lm_head.weight.normal_()
    return model


def forward(model, items: list, gaze: dict):
    batch = Collator(0)(items)
    return batch, model(**{key: value for key, value in batch.items() if not key.startswith("num_")}, gaze=gaze)


@pytest.mark.parametrize("budget", [DENSE, ROUTED], ids=["dense", "routed"])
@pytest.mark.parametrize("backend", ["masked", "flex", "varlen_reference"])
def test_a_pack_has_the_logits_and_loss_of_its_samples(model, samples, backend: str, budget: dict) -> None:
    gaze = {**budget, "backend": backend}
    reason = BACKENDS[backend].refuses(model.config.gaze_config, torch.device("cpu"), torch.float32)
    assert reason is None, reason
    with torch.no_grad():
        alone = [forward(model, [sample], gaze) for sample in samples]
        # Two packs of a batch, so that padding and order take part; the second sample of a pack is not at its end.
        packs = [Pack([samples[1], samples[3], samples[0]]), Pack([samples[2]])]
        batch, packed = forward(model, packs, gaze)
    order = [[1, 3, 0], [2]]
    for row, members in enumerate(order):
        start = 0
        for place, number in enumerate(members):
            logits = alone[number][1].logits[0]
            span = slice(start, start + len(logits))
            assert (batch["sample_ids"][row, span] == place).all()
            torch.testing.assert_close(packed.logits[row, span], logits, rtol=1e-5, atol=1e-4)
            start += len(logits)
    counts = [int((result["labels"][:, 1:] != -100).sum()) for result, _ in alone]
    total = sum(count * output.loss for count, (_, output) in zip(counts, alone, strict=True))
    assert sum(counts) == int((batch["labels"][:, 1:] != -100).sum())
    torch.testing.assert_close(packed.loss, total / sum(counts), rtol=1e-6, atol=1e-6)


def test_a_pack_has_the_gradients_of_its_samples(model, samples) -> None:
    def gradients(batches: list[list]) -> list[torch.Tensor]:
        model.zero_grad()
        for items in batches:
            _, output = forward(model, items, {**ROUTED, "backend": "masked"})
            supervised = sum(int((s["labels"][1:] != -100).sum()) for item in items for s in item.samples)
            (output.loss * supervised).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    together, apart = gradients([[Pack(samples)]]), gradients([[Pack([sample])] for sample in samples])
    assert len(together) == len(apart) > 10
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_another_sample_of_the_pack_changes_nothing(model, samples) -> None:
    """Bit for bit, where the shapes stay."""
    other = {**samples[0], "input_ids": samples[0]["input_ids"].flip(0)}
    with torch.no_grad():
        for backend in ("masked", "flex", "varlen_reference"):
            gaze = {**ROUTED, "backend": backend}
            _, before = forward(model, [Pack([samples[0], samples[1]])], gaze)
            _, after = forward(model, [Pack([other, samples[1]])], gaze)
            start = len(other["input_ids"])
            assert torch.equal(before.logits[0, start:], after.logits[0, start:])
            assert not torch.equal(before.logits[0, :start], after.logits[0, :start])


def write_mixed(folder: Path, count: int = 48) -> Path:
    """Text of many lengths, pictures, and videos of 1 to 6 frames, in JSONL."""
    folder.mkdir()
    generator = random.Random(0)
    for number in range(6):
        Image.frombytes("RGB", (32, 32), generator.randbytes(32 * 32 * 3)).save(folder / f"{number}.png")
    lines = []
    for number in range(count):
        media, asked = {}, f"Read {number}"
        if number % 3 == 1:
            media, asked = {"image": f"{number % 6}.png"}, f"<image> {asked}"
        elif number % 3 == 2:
            media = {"video": [f"{i}.png" for i in range(1 + generator.randrange(6))]}
            asked = f"<video> {asked}"
        answer = "B3 7 " * generator.randrange(1, 20)
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
        lines.append(json.dumps({"id": str(number), **media, "conversations": turns}))
    (folder / "mixed.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "mixed.jsonl"


def test_a_run_with_packing_sees_every_sample_with_little_padding(tmp_path: Path) -> None:
    data = write_mixed(tmp_path / "data", 120)
    options = {"max_steps": -1, "num_train_epochs": 1, "save_strategy": "no", "random_k": None, "packing": True}
    options |= {"max_length": 400, "per_device_train_batch_size": 2}
    trainer = run.train(config.load(flags(data, tmp_path / "packed", **options)))
    end = read_log(tmp_path / "packed", "end")[-1]
    assert end["samples"] == 120 and end["quarantined"] == end["overlong"] == 0
    assert trainer.state.global_step == -(-trainer.order.num_packs(0) // 2) < 30
    unpacked = {**options, "packing": None, "per_device_train_batch_size": 8}
    run.train(config.load(flags(data, tmp_path / "plain", **unpacked)))
    plain = read_log(tmp_path / "plain", "end")[-1]
    assert plain["samples"] == 120
    print(f"padding {end['padding']:.2%} packed, {plain['padding']:.2%} unpacked")
    assert end["padding"] < 0.03 < plain["padding"]
