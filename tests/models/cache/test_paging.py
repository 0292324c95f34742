"""Pages in host memory and a pool on the device: the same outputs as with all pages on the device."""

import dataclasses
import logging

import pytest
import torch

from cambrian_gaze.models.cache.cache import GazeCache
from cambrian_gaze.models.cache.paging import PagedGazeCache, parse_size
from cambrian_gaze.models.hf_internals import CACHE
from tests.models._streams import Stream, cast, cuts_of_kind, drawn, real_places
from tests.models.conftest import ask, make_model, noise

NEW = 12


def film(*numbers, text="what happens?"):
    frames = [noise(number) for number in numbers]
    return [{"role": "user", "content": [{"type": "video", "video": frames}, {"type": "text", "text": text}]}]


@pytest.fixture(scope="module")
def videos(processor):
    """Two rows of unequal length: 7 and 3 frames of 16 regions."""
    rows = [film(*range(7)), film(7, 8, 9, text="hello there, how are you today?")]
    return processor.apply_chat_template(rows, tokenize=True, add_generation_prompt=True)


def page_bytes(model, slots=4):
    config = model.config.text_config
    return slots * 2 * config.head_dim * 4


def pages_of(model, batch, repeats=1):
    config = model.config.text_config
    regions = int(batch["grid_thw"].prod(1).sum()) // 4 * repeats
    return regions * config.num_key_value_heads * config.num_hidden_layers


def pool_of(model, batch, share=0.15, repeats=1):
    return int(share * pages_of(model, batch, repeats)) * page_bytes(model)


OPTIONS = dict(max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)


@pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
def test_same_tokens_with_a_pool_of_15_percent(model, videos, granularity, capsys):
    """Greedy, two rows of unequal length; the cache is over six times the pool."""
    gaze = {"top_k": 2, "head_granularity": granularity}
    resident = model.generate(**videos, **OPTIONS, gaze=gaze, return_gaze=True)
    paged = model.generate(
        **videos, **OPTIONS, gaze=gaze, return_gaze=True, gaze_offload=pool_of(model, videos), output_logits=True
    )
    assert torch.equal(paged.sequences, resident.sequences)
    assert torch.equal(paged.gaze.regions, resident.gaze.regions)
    stats = paged.gaze_paging
    with capsys.disabled():
        print(f"\n{granularity}, greedy: {stats}")
    assert stats.pages == pages_of(model, videos)
    assert stats.pool_pages <= 0.15 * stats.pages
    assert 0 < stats.hit_rate < 1 and stats.evictions > 0
    asked = paged.gaze.regions.flatten(2).ge(0).sum() / (2 if granularity == "kv_group" else 1)
    assert 0 < stats.hits + stats.misses <= asked
    moved = (stats.misses + stats.prefetched) * page_bytes(model)
    assert stats.bytes_to_device == moved, "the pages that were not there, and nothing else"
    assert stats.bytes_to_host == stats.pages * page_bytes(model) * 14 // 10, "each row has room for the longest"


@pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
def test_a_cache_three_times_the_pool_decodes(model, videos, granularity, capsys):
    gaze = {"top_k": 3, "head_granularity": granularity}
    resident = model.generate(**videos, **OPTIONS, gaze=gaze)
    options = dict(gaze=gaze, gaze_offload=pool_of(model, videos, 1 / 3), return_dict_in_generate=True)
    paged = model.generate(**videos, **OPTIONS, **options)
    assert torch.equal(paged.sequences, resident)
    with capsys.disabled():
        print(f"\n{granularity}, a third: {paged.gaze_paging}")


@pytest.mark.parametrize("beams", [2, 3])
def test_beams(model, videos, beams):
    """Rows are reordered at every step; their pages stay where they are."""
    options = dict(max_new_tokens=NEW, num_beams=beams, do_sample=False, return_dict_in_generate=True)
    resident = model.generate(**videos, **options)
    paged = model.generate(**videos, **options, gaze_offload=pool_of(model, videos, 0.2, beams))
    assert torch.equal(paged.sequences, resident.sequences)
    assert paged.gaze_paging.evictions > 0 and paged.gaze_paging.hits > 0
    cache = paged[CACHE]
    assert cache.row_of is not None and cache.layers[0].stores["keys"].data.shape[0] == 2 * beams


def test_several_sequences_are_sampled_alike(model, videos):
    answers = []
    for offload in (None, pool_of(model, videos, 0.2, 2)):
        torch.manual_seed(5)
        options = dict(do_sample=True, num_return_sequences=2, max_new_tokens=NEW, gaze_offload=offload)
        answers.append(model.generate(**videos, **options))
    assert torch.equal(*answers)


def test_two_turns_with_a_kept_cache(model, processor):
    """A second turn with another image reads every page, rewrites none, and finds its pages in a pool made anew."""
    first = processor.apply_chat_template(ask(noise(0), text="what?"), tokenize=True, add_generation_prompt=True)
    turn = processor(text="\n<|im_start|>user\n<image>and this?<|im_end|>\n<|im_start|>assistant\n", images=noise(1))
    layers = model.config.text_config.num_hidden_layers
    results = []
    for cache in (
        GazeCache(model.config.gaze_config),
        PagedGazeCache(model.config.gaze_config, 8 * layers * page_bytes(model), layers),
    ):
        options = dict(do_sample=False, cache=cache)
        out = model.generate(**first, max_new_tokens=4, min_new_tokens=4, **options)
        answer = out[:, first["input_ids"].shape[1] :]
        ids = torch.cat([first["input_ids"], answer, turn["input_ids"]], 1)
        types = torch.cat([first["mm_token_type_ids"], torch.zeros_like(answer), turn["mm_token_type_ids"]], 1)
        whole = dict(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=types,
            pixel_values=torch.cat([first["pixel_values"], turn["pixel_values"]]),
            grid_thw=torch.cat([first["grid_thw"], turn["grid_thw"]]),
        )
        results.append(model.generate(**whole, max_new_tokens=NEW, **options))
    assert torch.equal(*results)
    assert cache.paging_stats().pages == 2 * 16 * 2 * layers and cache.paging_stats().misses > 0


@pytest.mark.parametrize(
    "gaze",
    [
        {"descriptor": "oracle"},
        {"descriptor": "minmax", "descriptor_keys": "pre_rope"},
        {"dense_layers": [1]},
        {"visual_queries": "gaze"},
    ],
)
def test_other_configurations(videos, gaze):
    model = make_model(gaze={"image": {"region_size": [1, 2, 2], "top_k": 2}, **gaze})
    resident = model.generate(**videos, **OPTIONS)
    assert torch.equal(model.generate(**videos, **OPTIONS, gaze_offload=pool_of(model, videos)), resident)


@pytest.mark.parametrize("kind", ["all at once", "one by one", "mixture"])
@pytest.mark.parametrize("seed", range(0, 24, 5))
def test_any_mixture_of_prefill_and_steps(seed, kind):
    """Every kind of layout and configuration of the cache's own tests, with the smallest pool that will do."""
    case, layout, layers = drawn(seed)
    layers = cast(layers, torch.float64)
    cuts = cuts_of_kind(kind, layout, seed)
    where = real_places(layout, case.heads)
    want = Stream(case.config).feed_pieces(layers, layout, cuts)
    paged = PagedGazeCache(case.config, "1MiB", 2)
    for got, expected in zip(Stream(case.config, paged).feed_pieces(layers, layout, cuts), want, strict=True):
        # A step over resident pages adds up in another order on a CPU.
        assert torch.allclose(got[where], expected[where], rtol=0, atol=1e-14)
    assert len(paged.layers) == 2
    size = 1
    while True:  # the smallest pool that will do
        cache = PagedGazeCache(case.config, size, 2)
        try:
            outputs = Stream(case.config, cache).feed_pieces(layers, layout, cuts)
            break
        except ValueError as error:
            needed = int(str(error).split("at least ")[1].split()[0])
            assert needed > size
            size = needed
    for got, expected in zip(outputs, want, strict=True):
        assert torch.allclose(got[where], expected[where], rtol=0, atol=1e-14)


def test_rows_move_with_their_layout():
    """Repeated, reordered and selected rows read the pages of their owners; new frames give each row its own."""
    seed = next(n for n in range(24) if drawn(n)[1].shape[0] == 2 and drawn(n)[1].num_regions > 3)
    case, layout, layers = drawn(seed)
    owner = torch.tensor([1, 0, 0])
    moves = [("batch_repeat_interleave", 2), ("reorder_cache", [2, 0, 3, 1]), ("batch_select_indices", [0, 3, 1])]
    caches = GazeCache(case.config), PagedGazeCache(case.config, "1MiB", 2)
    for cache in caches:
        Stream(case.config, cache).feed_pieces(layers, layout, [])
        for name, rows in moves:
            getattr(cache, name)(rows if isinstance(rows, int) else torch.tensor(rows))
    for mine, theirs in zip(caches[1].layers, caches[0].layers, strict=True):
        assert torch.equal(mine.page_keys, theirs.page_keys) and torch.equal(mine.page_values, theirs.page_values)
        chosen = torch.zeros(3, case.kv_heads, 2, dtype=torch.int64)
        for a, b in zip(mine.gather_pages(chosen), theirs.gather_pages(chosen), strict=True):
            assert torch.equal(a, b)
    assert caches[1].layers[0].stores["keys"].data.shape[0] == layout.shape[0], "no copy was made for a row"
    again = layout.rows(owner)
    again = dataclasses.replace(again, index=again.index + layout.shape[1])
    new = [tuple(x[owner] + 1 for x in qkv) for qkv in layers]
    got, want = (Stream(case.config, cache).feed(new, again) for cache in (caches[1], caches[0]))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert caches[1].row_of is None and caches[1].layers[0].stores["keys"].data.shape[0] == 3


def test_the_first_step_finds_what_the_prompt_looked_at(model, videos):
    """Pages of each prompt's last query are fetched ahead, so that the first step has something to hit."""
    paged = model.generate(
        **videos, max_new_tokens=2, min_new_tokens=2, do_sample=False, return_gaze=True, gaze_offload="1MiB"
    )
    last, first = paged.gaze.regions[:, 0], paged.gaze.regions[:, 1]
    common = ahead = 0
    for row, layer in ((r, n) for r in range(2) for n in range(first.shape[1])):
        for group in (slice(0, 2), slice(2, 4)):
            before, now = (set(x[row, layer, group].flatten().tolist()) for x in (last, first))
            common, ahead = common + len(before & now), ahead + len(before)
    assert paged.gaze_paging.prefetched == ahead, "of the row with fewer text tokens too"
    assert paged.gaze_paging.hits == common


@pytest.mark.parametrize(
    ("size", "expected"),
    [(7, 7), ("7", 7), ("2GiB", 2 << 30), ("500 MB", 500_000_000), ("1.5kib", 1536), ("3b", 3), ("1TB", 10**12)],
)
def test_sizes(size, expected):
    assert parse_size(size) == expected


@pytest.mark.parametrize("size", [0, -1, "0GiB", "2 GX", "GiB", "", 1.5, True, None])
def test_what_is_no_size(size):
    with pytest.raises(ValueError, match="2GiB"):
        parse_size(size)


def test_a_pool_too_small_says_what_it_needs(model, videos):
    with pytest.raises(ValueError, match=r"give at least (\d+) bytes") as error:
        model.generate(**videos, **OPTIONS, gaze_offload="1KiB")
    enough = int(str(error.value).split("; ")[1].split()[0])
    assert torch.equal(model.generate(**videos, **OPTIONS, gaze_offload=enough), model.generate(**videos, **OPTIONS))
    with pytest.raises(ValueError, match="give at least"):
        model.generate(**videos, **OPTIONS, gaze_offload=page_bytes(model) * 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gaze_offload": "2 GX"}, "no size of memory"),
        ({"gaze_offload": "1MiB", "use_cache": False}, "leave use_cache=False out"),
        ({"gaze_offload": "1MiB", "past_key_values": "mine"}, "PagedGazeCache"),
    ],
)
def test_bad_options_are_refused(model, videos, wrong, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**videos, max_new_tokens=2, do_sample=False, **wrong)


def test_the_summary_is_logged(model, videos, caplog):
    with caplog.at_level(logging.INFO, logger="cambrian_gaze.models.generation"):
        model.generate(**videos, max_new_tokens=3, do_sample=False, gaze_offload="1MiB")
    assert "page reads hit the pool of" in caplog.text


def test_reset_forgets_everything(model, videos):
    config, layers = model.config.gaze_config, model.config.text_config.num_hidden_layers
    cache = PagedGazeCache(config, "1MiB", layers)
    answers = []
    for _ in range(2):
        answers.append(model.generate(**videos, max_new_tokens=4, do_sample=False, cache=cache))
        cache.reset()
        assert dataclasses.astuple(cache.paging_stats()) == (0,) * 8
    assert torch.equal(*answers)


@pytest.mark.gpu
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("granularity", ["q_head", "kv_group"])
def test_pinned_pages_on_a_gpu(videos, granularity, beams):
    model = make_model().cuda()
    batch = {name: value.cuda() for name, value in videos.items()}
    options = dict(**OPTIONS, num_beams=beams, gaze={"head_granularity": granularity})
    resident = model.generate(**batch, **options)
    paged = model.generate(
        **batch, **options, gaze_offload=pool_of(model, videos, 0.2, beams), return_dict_in_generate=True
    )
    assert torch.equal(paged.sequences, resident)
    store = paged[CACHE].layers[0].stores["keys"]
    assert store.data.is_pinned() and paged[CACHE].layers[0].pool.buffers[0].is_cuda
