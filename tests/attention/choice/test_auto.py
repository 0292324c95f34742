"""What `auto` takes: tried once per class of calls, kept in a file that is believed where it is whole, one choice for a
training run and all of its ranks."""

import dataclasses
import json
import logging

import pytest
import torch

from cambrian_gaze import CambrianGazeForConditionalGeneration
from cambrian_gaze.attention import BACKENDS, Heads, attend, prepare, registry
from cambrian_gaze.attention.choice import auto, kept, run_choice, trial
from cambrian_gaze.attention.choice.run_choice import RunChoice, in_run
from cambrian_gaze.attention.choice.trial import REFERENCE
from cambrian_gaze.files import CACHE_VARIABLE
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from tests._layouts import build
from tests.attention._run import context
from tests.attention._toys import CPU, LAYOUT_CONFIG, ROW, ToyClock, few_tokens, toys
from tests.training._ranks import launch

HEADS = Heads(4, 2, 8)
NAMES = ["slow", "fast", "wrong"]


@pytest.fixture
def clock(monkeypatch, tmp_path):
    """Backends are tried on the CPU too, are the toys, and take the time that the clock says."""
    clock = ToyClock()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(auto, "TRIED_ON", {"cpu"})
    monkeypatch.setattr(registry, "BACKENDS", toys(clock, NAMES))
    monkeypatch.setattr(trial, "_median", clock.time)
    monkeypatch.setattr(auto, "WORTH_TRYING", 1)
    auto.forget()
    yield clock
    auto.forget()


def taken(ctx, heads=HEADS, dtype=torch.float32):
    return prepare(ctx, CPU, dtype, heads).prepared.backend.name


def tries(clock, ctx, **options):
    """What is taken, and whether it took a trial."""
    before = clock.ran.count("wrong")
    return taken(ctx, **options), clock.ran.count("wrong") > before


def the_file(tmp_path):
    (path,) = (tmp_path / "cache" / "attention").iterdir()
    return path


def test_the_fastest_is_taken_said_and_kept(clock, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="cambrian_gaze"):
        assert tries(clock, few_tokens(LAYOUT_CONFIG)) == ("fast", True)
    assert "attention backend: fast (auto, for torch.float32 on" in caplog.text and "tried now" in caplog.text
    for line in ("| fast | 10 | 10 |", "taken |", "differs from masked"):
        assert line in caplog.text
    assert tries(clock, few_tokens(LAYOUT_CONFIG)) == ("fast", False)
    auto.forget()  # another process
    path, before = the_file(tmp_path), the_file(tmp_path).read_bytes()
    assert str(path) in caplog.text
    assert tries(clock, few_tokens(LAYOUT_CONFIG)) == ("fast", False)
    assert path.read_bytes() == before
    about = json.loads(before)["key"]
    assert about["heads"] == [4, 2, 8, 0.0] and about["dtype"] == "float32" and about["versions"]["torch"]


@pytest.mark.parametrize("name, reason", [("raises", "no such kernel"), ("out of memory", "out of memory")])
def test_what_may_be_otherwise_next_time_is_said_and_not_kept(clock, monkeypatch, tmp_path, caplog, name, reason):
    monkeypatch.setattr(registry, "BACKENDS", toys(clock, [*NAMES, name]))
    with caplog.at_level(logging.INFO, logger="cambrian_gaze"):
        assert tries(clock, few_tokens(LAYOUT_CONFIG)) == ("fast", True)
    assert reason in caplog.text and "kept in" not in caplog.text and not (tmp_path / "cache").exists()
    assert tries(clock, few_tokens(LAYOUT_CONFIG)) == ("fast", False), "within a process it holds"
    auto.forget()
    monkeypatch.setattr(registry, "BACKENDS", toys(clock, NAMES))
    assert tries(clock, few_tokens(LAYOUT_CONFIG)) == ("fast", True) and the_file(tmp_path)


def test_a_backend_that_was_not_begun_is_tried_in_the_next_process(clock, monkeypatch, tmp_path):
    late = [trial.Outcome(REFERENCE, layer_us=1.0, prepare_us=0.0), trial.Outcome("fast", reason="", transient=True)]
    monkeypatch.setattr(auto, "try_all", lambda *_, **__: late)
    assert taken(few_tokens(LAYOUT_CONFIG)) == REFERENCE and not (tmp_path / "cache").exists()


def test_a_backend_that_is_registered_later_is_tried(clock):
    """What was kept without it does not count."""
    clock.us["faster"] = 1.0
    assert taken(few_tokens(LAYOUT_CONFIG)) == "fast"
    registry.register_backend(toys(clock, ["faster"])["faster"])
    auto.forget()  # another process
    assert tries(clock, few_tokens(LAYOUT_CONFIG)) == ("faster", True)
    auto.forget()
    assert tries(clock, few_tokens(LAYOUT_CONFIG)) == ("faster", False)


def test_what_is_taken_is_what_runs(clock):
    ctx = prepare(few_tokens(LAYOUT_CONFIG), CPU, torch.float32, HEADS)
    q, k, v = (torch.randn(1, n, ctx.layout.shape[1], 8) for n in (4, 2, 2))
    clock.ran.clear()
    attend(q, k, v, ctx, layer=0, scaling=1.0)
    assert clock.ran == ["fast"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: raw.replace(b'"layer_us": 900.0', b'"layer_us": 1.0'),
        lambda raw: raw.replace(b"10.0", b"1e1"),
        lambda raw: raw + b"\n",
        lambda raw: b"[1, 2]",
        lambda raw: b'{"outcomes": [{"unknown": 1}]}',
        lambda raw: b"\xff\xfe",
    ],
)
def test_a_damaged_file_is_made_anew(clock, tmp_path, damage, caplog):
    taken(few_tokens(LAYOUT_CONFIG))
    path = the_file(tmp_path)
    good = path.read_bytes()
    path.write_bytes(damage(good))
    assert path.read_bytes() != good
    auto.forget()
    assert tries(clock, few_tokens(LAYOUT_CONFIG)) == ("fast", True)
    assert path.read_bytes() == good and "damaged or stale" in caplog.text


def test_a_file_of_other_versions_is_not_read(clock, tmp_path, monkeypatch):
    taken(few_tokens(LAYOUT_CONFIG))
    of_before = the_file(tmp_path)
    monkeypatch.setattr(kept, "versions", lambda: {"torch": "9.9"})
    auto.forget()
    assert tries(clock, few_tokens(LAYOUT_CONFIG)) == ("fast", True)
    (new,) = set(of_before.parent.iterdir()) - {of_before}
    new.write_bytes(of_before.read_bytes())  # in the place of another class
    auto.forget()
    assert tries(clock, few_tokens(LAYOUT_CONFIG)) == ("fast", True)


def test_versions_name_this_code():
    kept.versions.cache_clear()
    found = kept.versions()
    assert found["torch"] == torch.__version__ and len(found["code"]) == 16 and "triton" in found


def test_a_kept_backend_that_refuses_now_is_not_taken(clock, monkeypatch):
    taken(few_tokens(LAYOUT_CONFIG))
    auto.forget()
    fast = dataclasses.replace(registry.BACKENDS["fast"], refuses=lambda *_: "the package is gone")
    monkeypatch.setitem(registry.BACKENDS, "fast", fast)
    assert tries(clock, few_tokens(LAYOUT_CONFIG)) == (REFERENCE, True)


def test_a_folder_that_cannot_be_written_is_said(clock, monkeypatch, tmp_path, caplog):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "a file"))
    assert taken(few_tokens(LAYOUT_CONFIG)) == "fast"
    assert "was not kept" in caplog.text and CACHE_VARIABLE in caplog.text


def test_classes_of_calls(clock):
    """Outside of a run lengths matter, by powers of two; in a training run one choice holds for all of them."""
    one, many = few_tokens(LAYOUT_CONFIG), few_tokens(LAYOUT_CONFIG, 3)
    long = context(build([[ROW * 2]], LAYOUT_CONFIG).layout(), LAYOUT_CONFIG)
    with torch.no_grad():
        assert [tries(clock, ctx)[1] for ctx in (one, long, many, long)] == [True, True, False, False]
        assert tries(clock, one, heads=Heads(8, 2, 8))[1] and tries(clock, one, dtype=torch.bfloat16)[1]
        assert tries(clock, few_tokens(LAYOUT_CONFIG.override(head_granularity="kv_group")))[1]
    assert tries(clock, one)[1], "a stray call with gradients"
    with torch.no_grad():
        longer = context(build([[ROW * 4]], LAYOUT_CONFIG).layout(), LAYOUT_CONFIG)
        assert tries(clock, longer)[1], "decides nothing for calls of other lengths"
    auto.forget()
    run = RunChoice()
    clock.us["fast"] = 1000.0
    with in_run(run):
        assert [tries(clock, ctx)[0] for ctx in (few_tokens(LAYOUT_CONFIG, 9), one, long)] == [REFERENCE] * 3
        with torch.no_grad():
            clock.us["fast"] = 1.0
            assert tries(clock, longer) == (REFERENCE, False), "evaluation has the run's choice"
    assert list(run.names.values()) == [REFERENCE]


def test_a_short_call_without_gradients_does_not_wait_for_a_trial(clock, monkeypatch):
    ctx = few_tokens(LAYOUT_CONFIG, 2)
    batch, length = ctx.layout.shape
    with torch.no_grad():
        monkeypatch.setattr(auto, "WORTH_TRYING", batch * length + 1)
        assert tries(clock, ctx) == (REFERENCE, False)
        monkeypatch.setattr(auto, "WORTH_TRYING", batch * length)
        assert tries(clock, ctx) == ("fast", True)


def test_a_run_that_goes_on_has_the_choice_that_it_had(clock, monkeypatch):
    before, after, elsewhere = RunChoice(), RunChoice(), RunChoice()
    with in_run(before):
        assert tries(clock, few_tokens(LAYOUT_CONFIG.override(min_keep_ratio=0.5))) == ("fast", True)
    state = json.loads(json.dumps(before.state(CPU)))
    after.names |= after.usable(state, CPU)
    clock.us["fast"] = 1000.0
    auto.forget()
    with in_run(after):
        assert tries(clock, few_tokens(LAYOUT_CONFIG, 9)) == ("fast", False)
    for damaged in (None, {}, [], {**state, "names": ["fast"]}, {**state, "device": "another GPU"}):
        assert elsewhere.usable(damaged, CPU) == {}
    monkeypatch.setattr(kept, "versions", lambda: {"torch": "9.9"})
    assert elsewhere.usable(state, CPU) == {}


def test_a_backend_that_a_checkpoint_names_and_nobody_knows_is_not_taken(clock):
    run = RunChoice()
    with in_run(run):
        taken(few_tokens(LAYOUT_CONFIG))
        run.names = dict.fromkeys(run.names, "gone")
        assert taken(few_tokens(LAYOUT_CONFIG)) == "fast"


def test_progressive_topk(clock):
    """Dense steps are by rows and try nothing; the choice is made at the first that routes, at the budget, and holds
    for the schedule."""
    wide = LAYOUT_CONFIG.override(min_keep_ratio=1.0)
    with in_run(RunChoice()):
        assert tries(clock, few_tokens(wide)) == (REFERENCE, False)
        assert tries(clock, few_tokens(LAYOUT_CONFIG.override(min_keep_ratio=0.9))) == ("fast", True)
        for ratio in (0.7, 0.4, 0.0):
            assert tries(clock, few_tokens(LAYOUT_CONFIG.override(min_keep_ratio=ratio))) == ("fast", False)
        assert tries(clock, few_tokens(wide)) == (REFERENCE, False)


def test_with_progressive_topk_backends_agree_on_many_regions_too(clock, monkeypatch):
    monkeypatch.setattr(registry, "BACKENDS", toys(clock, ["wrong with many regions"]))
    assert taken(few_tokens(LAYOUT_CONFIG)) == "wrong with many regions"
    auto.forget()
    assert taken(few_tokens(LAYOUT_CONFIG.override(min_keep_ratio=0.4))) == REFERENCE


def test_nothing_is_tried_where_there_is_nothing_to_gain(clock):
    dense = GazeConfig(image=RegionBudget((1, 2, 2)), num_context_tokens=1)
    text = context(build([[[("text", (7,))]]], LAYOUT_CONFIG).layout(), LAYOUT_CONFIG)
    for ctx in (few_tokens(dense), text, dataclasses.replace(few_tokens(LAYOUT_CONFIG), reads_cache=True)):
        assert tries(clock, ctx) == (REFERENCE, False)
    assert tries(clock, few_tokens(LAYOUT_CONFIG), heads=None) == (REFERENCE, False)
    assert tries(clock, few_tokens(LAYOUT_CONFIG), heads=Heads(4, 2, 8, dropout=0.1)) == (REFERENCE, False)
    assert tries(clock, few_tokens(LAYOUT_CONFIG)) == ("fast", True), "a text alone has decided nothing"


def test_on_a_cpu_nothing_is_tried(clock, monkeypatch, caplog):
    monkeypatch.setattr(auto, "TRIED_ON", {"cuda"})
    registry._say_pick.cache_clear()
    with caplog.at_level(logging.INFO, logger="cambrian_gaze"):
        assert tries(clock, few_tokens(LAYOUT_CONFIG)) == (REFERENCE, False)
    assert "attention backend: masked (auto, for torch.float32 on cpu)" in caplog.text


def test_a_name_is_that_one(clock):
    assert tries(clock, few_tokens(LAYOUT_CONFIG.override(backend="slow"))) == ("slow", False)
    with pytest.raises(ValueError, match="unknown attention backend"):
        taken(few_tokens(LAYOUT_CONFIG.override(backend="quick")))


def test_backends_for_tests_are_not_tried(clock, monkeypatch):
    monkeypatch.setitem(registry.BACKENDS, "fast", dataclasses.replace(registry.BACKENDS["fast"], only_for_tests=True))
    assert taken(few_tokens(LAYOUT_CONFIG)) == REFERENCE
    assert [name for name, backend in BACKENDS.items() if backend.only_for_tests] == ["varlen_reference"]


def test_heads_are_those_of_a_rank_of_a_sequence_parallel_group(clock, tmp_path):
    class Shards:
        class group:
            size = 2

    ctx = dataclasses.replace(few_tokens(LAYOUT_CONFIG), shards=Shards())
    with in_run(RunChoice()):
        assert taken(ctx) == "fast"
        assert json.loads(the_file(tmp_path).read_bytes())["key"]["heads"] == [2, 1, 8, 0.0]
        with torch.no_grad():
            clock.us["fast"] = 1000.0
            assert tries(clock, few_tokens(LAYOUT_CONFIG, 9)) == ("fast", False), "evaluation has no such group"


@pytest.fixture
def several_ranks(monkeypatch):
    monkeypatch.setattr(auto.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(auto.dist, "get_world_size", lambda: 2)


def test_a_rank_takes_what_it_is_told(clock, several_ranks):
    assert tries(clock, few_tokens(LAYOUT_CONFIG)) == (REFERENCE, False), "nobody is waiting"
    asked = []

    def tell(decide, able, device):
        asked.append(able)
        return None if len(asked) == 1 else "slow"

    run = RunChoice()
    with in_run(run, tell):
        assert tries(clock, few_tokens(LAYOUT_CONFIG)) == (REFERENCE, False), "nobody could tell yet"
        text = context(build([[[("text", (7,))]]], LAYOUT_CONFIG).layout(), LAYOUT_CONFIG)
        assert tries(clock, text) == ("slow", False), "a rank that sees text alone takes part"
        assert tries(clock, few_tokens(LAYOUT_CONFIG)) == ("slow", False)
        assert asked == [True, False], "once it is known nobody is asked"
    with torch.no_grad(), in_run(run):
        assert tries(clock, few_tokens(LAYOUT_CONFIG, 5)) == ("slow", False)


def test_ranks_that_see_text_alone_ask_one_another_ever_less(clock, several_ranks):
    asked, calls = [], []
    text = context(build([[[("text", (7,))]]], LAYOUT_CONFIG).layout(), LAYOUT_CONFIG)
    with in_run(RunChoice(), lambda *_: asked.append(calls[-1])):
        for call in range(1, 4 * run_choice.EVERY):
            calls.append(call)
            assert taken(text) == REFERENCE
    assert asked == [1, 2, 4, 8, 16, 32, 64, 128, 192]


def test_ranks_without_gradients_are_by_rows(clock, several_ranks):
    with torch.no_grad(), in_run(RunChoice(), lambda decide, *_: decide()):
        assert tries(clock, few_tokens(LAYOUT_CONFIG)) == (REFERENCE, False)


def choose_as_ranks(folder):
    """0 where both ranks take what the lowest one that has pictures finds fastest, and make no group before."""
    import os

    import torch.distributed as dist

    from cambrian_gaze.training.checkpoint.resume import lowest_able_rank_decides

    dist.init_process_group("gloo")
    rank, clock = dist.get_rank(), ToyClock()
    os.environ[CACHE_VARIABLE] = f"{folder}/{rank}"
    auto.TRIED_ON, registry.BACKENDS = {"cpu"}, toys(clock, NAMES)
    trial._median = clock.time
    clock.us |= {"fast": 800.0, "slow": 1.0} if rank else {}
    groups, new_group = [], dist.new_group
    dist.new_group = lambda *args, **options: groups.append(1) or new_group(*args, **options)
    images, text = few_tokens(LAYOUT_CONFIG), context(build([[ROW[:1]]], LAYOUT_CONFIG).layout(), LAYOUT_CONFIG)
    with in_run(RunChoice(), lowest_able_rank_decides):
        names = [taken(text), taken(images), taken(text if rank == 0 else images)]
    found = [names, len(groups), "wrong" in clock.ran]
    clock.ran.clear()
    with in_run(RunChoice(), lowest_able_rank_decides):  # at first the first rank has text alone
        names = [taken(images if rank else text), taken(images)]
    found += [names, "wrong" in clock.ran]
    dist.barrier()
    want = [[REFERENCE, "fast", "fast"], 1, rank == 0, ["slow", "slow"], rank == 1]
    return int(found != want)


def test_two_ranks_take_what_the_lowest_with_pictures_finds(tmp_path):
    assert launch(2, choose_as_ranks, str(tmp_path), timeout=120) == [0, 0]


def test_a_model_hands_over_its_heads(clock, monkeypatch):
    """Training step and evaluation of a whole model, gradient checkpointing on: one trial, before the layers run."""
    model = CambrianGazeForConditionalGeneration.from_preset("tiny", gaze={"image": {"top_k": 2}})
    text = model.config.text_config
    h, w = model.config.grid
    types = torch.tensor([[0] * 3 + [1] * (h * w) + [3] * model.config.gaze_config.num_context_tokens + [0] * 5])
    ids = torch.where(types == 1, model.config.image_token_id, 5)
    ids = torch.where(types == 3, model.config.context_token_id, ids)
    side = model.config.vision_config.image_size
    inputs = {
        "input_ids": ids,
        "mm_token_type_ids": types,
        "grid_thw": torch.tensor([[1, h, w]]),
        "pixel_values": torch.randn(1, 3, side, side),
        "labels": torch.where(types == 0, ids, -100),
    }
    given = []
    choose = auto.choose
    monkeypatch.setattr(auto, "choose", lambda *args: given.append(args[3]) or choose(*args))
    model.train().gradient_checkpointing_enable()
    before, run = torch.get_rng_state(), RunChoice()
    with in_run(run):
        loss = model(**inputs).loss
    loss.backward()
    assert torch.equal(torch.get_rng_state(), before)
    assert set(given) == {Heads(text.num_attention_heads, text.num_key_value_heads, text.head_dim, 0.0)}
    assert clock.ran.count("wrong") == 2 and clock.ran[-1] == "fast"
    clock.ran.clear()
    with torch.no_grad(), in_run(run):
        assert model.eval()(**inputs).loss.isfinite()
    assert set(clock.ran) == {"fast"}


def test_under_autocast_a_kernel_gets_one_dtype(clock):
    """q and k in fp32 beside v in bf16, as a norm with fp32 weights leaves them."""
    ctx = few_tokens(LAYOUT_CONFIG.override(backend="fast"))
    q, k, v = (torch.randn(1, n, ctx.layout.shape[1], 8, requires_grad=True) for n in (4, 2, 2))
    with torch.autocast("cpu", torch.bfloat16):
        prepare(ctx, CPU, torch.float32)
        clock.dtypes.clear()
        out = attend(q, k, v.bfloat16(), ctx, layer=0, scaling=1.0)
    assert clock.dtypes == {torch.bfloat16} and out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert q.grad.dtype == torch.float32


def test_under_autocast_the_dtype_of_attention_decides(clock, tmp_path):
    with torch.autocast("cpu", torch.bfloat16):
        assert taken(few_tokens(LAYOUT_CONFIG)) == "fast"
    assert json.loads(the_file(tmp_path).read_bytes())["key"]["dtype"] == "bfloat16"
    assert torch.bfloat16 in clock.dtypes
