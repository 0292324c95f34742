"""Everything is made on the device of the model: a device in name alone stands in for a GPU."""

import pytest
import torch

from cambrian_gaze.bench.train_step import random_batch
from tests._devices import OTHER, move, other_device
from tests.models.cache.test_paging import film
from tests.models.conftest import make_model, noise

GREEDY = dict(max_new_tokens=4, min_new_tokens=4, do_sample=False)


def test_what_mixes_devices_is_noticed():
    with other_device():
        x = torch.ones(2, device=OTHER)
        assert (x + 1).device == OTHER and (x[torch.tensor([0])] + x.sum()).tolist() == [3.0]
        with pytest.raises(RuntimeError, match="on the other device"):
            x + torch.ones(2)


@pytest.mark.parametrize(
    "options",
    [
        {"gaze": {"head_granularity": "kv_group"}},
        {"return_gaze": True},
        {"num_beams": 2},
        {"use_cache": False},
        {"gaze": {"descriptor_keys": "pre_rope"}},
        {"gaze_offload": "80KiB", "num_beams": 2},
        {"gaze": {"backend": "varlen_reference"}},
    ],
    ids=str,
)
def test_generation(processor, options):
    rows = [film(*range(5)), film(7, 8, text="hello there, how are you today?")]
    batch = processor.apply_chat_template(rows, tokenize=True, add_generation_prompt=True)
    model = make_model(gaze={"image": {"region_size": [1, 2, 2], "top_k": 2}, **options.pop("gaze", {})})
    answers = []
    for device in ("cpu", OTHER):
        with other_device():
            if device == OTHER:
                move(model)
            given = {name: x.to(device) for name, x in batch.items()}
            answer = model.generate(**given, **GREEDY, **options, return_dict_in_generate=True).sequences
            assert answer.device == torch.device(device)
            answers.append(answer.tolist())
    assert answers[0] == answers[1]


def test_a_stream(processor):
    model = make_model()
    answers = []
    for device in ("cpu", OTHER):
        with other_device():
            if device == OTHER:
                move(model)
            stream = model.stream(processor)
            stream.append([noise(0), noise(1)])
            first = stream.ask("what?", max_new_tokens=2, do_sample=False)
            stream.append([noise(2)])
            answers.append([*first.ids.tolist(), *stream.ask("and?", max_new_tokens=2, do_sample=False).ids.tolist()])
    assert answers[0] == answers[1]


@pytest.mark.parametrize("options", [{}, {"backend": "varlen_reference"}, {"descriptor": "oracle"}], ids=str)
def test_a_training_step(options):
    model = make_model().train()
    batch = random_batch(model.config, 2, 3, 40, torch.device("cpu"))
    results = []
    for device in ("cpu", OTHER):
        with other_device():
            if device == OTHER:
                move(model)
            loss = model(**{name: x.to(device) for name, x in batch.items()}, gaze=options).loss
            loss.backward()
            norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
            assert loss.device == torch.device(device) and norms
            results.append((loss.item(), sum(norm.item() for norm in norms)))
    assert results[0] == pytest.approx(results[1], rel=1e-4)
