"""The pool of pages on the device: which page goes when it is full, and that its buffers hold what the stores hold."""

import torch

from cambrian_gaze.models.cache.page_pool import HostStore, PagePool, PagingCounts


def store_of(pages):
    """A store of [1, 1, pages, 1, 1] whose page n holds n."""
    store = HostStore(torch.zeros(1, 1, 0, 1), PagingCounts())
    store.grow(pages, 1)
    store.write(torch.arange(pages), torch.arange(float(pages)).view(1, 1, pages, 1, 1))
    return store


def test_the_page_used_last_stays():
    counts, stores = PagingCounts(), (store_of(6), store_of(6))
    pool = PagePool(stores, 3, torch.device("cpu"))

    def ask_for(*pages, ahead=False):
        pages = torch.tensor(pages)
        pool.fetch(pages, counts, ahead)
        for buffer in pool.buffers:
            assert buffer[pool.slot_of[pages]].flatten().tolist() == pages.tolist()

    ask_for(0, 1, 2)
    ask_for(0, 2)
    ask_for(3)
    assert (pool.slot_of >= 0).tolist() == [True, False, True, True, False, False], "1 was used longest ago"
    assert (counts.hits, counts.misses, counts.evictions) == (2, 4, 1)
    ask_for(0, 4, 5, ahead=True)
    assert (counts.hits, counts.misses, counts.evictions, counts.prefetched) == (2, 4, 3, 2)
    ask_for(0, 4, 5)
    assert (counts.hits, counts.misses) == (5, 4)
    stores[0].data[0, 0, 4], stores[1].data[0, 0, 4] = 40.0, 40.0
    pool.forget(torch.tensor([4, 3]))
    pool.fetch(torch.tensor([4]), counts)
    assert pool.buffers[0][pool.slot_of[4]] == 40.0 and counts.misses == 5
