"""What the pages say about each bench besides its numbers: what is measured, how to read it, what a GPU would fill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """The words of one bench's page."""

    title: str
    intro: str
    sections: Mapping[str, tuple[str, str]]
    """Section of the rows → its heading, and what is told of it; in the order of the page."""
    on_gpu: str | None = None
    """What a GPU would fill; None where nothing of this bench runs on one."""


TEXTS = {
    "decode": Text(
        "Decoding",
        "One decoding step of one layer, with regions of 36; each table says the sizes, by default those of the 4B "
        "decoder. Scores, TopK and attention are included. Dense is the fastest of three forms over the same keys: "
        "`enable_gqa`, keys repeated beforehand at nobody's expense, and the query heads of a KV head as so many "
        'queries. "pages read" is the union over the heads of a KV head, '
        'as counted, and "read" the bytes if each page is read once per KV head. B: rows decoded at once.',
        {
            "bench decode": (
                "One step",
                "One layer's step is repeated, so that what a small step reads stays in the processor's cache; "
                "[a table below](#several-layers-in-turn) takes that away.",
            ),
            "bench decode shares": (
                "From an eighth of the regions to all",
                "With all regions gaze attends to as much as dense, and to the context tokens.",
            ),
            "bench decode regions": (
                "K as a number",
                "What is read falls with K. With K given as a number, the visual entries are the same at every N_v; "
                "what still grows are the context tokens, 4 per 576, and the descriptors, one fp32 vector per region.",
            ),
            "bench decode batches": ("Several rows at once", ""),
            "bench decode layers": (
                "Several layers in turn",
                "Each has keys and values of its own, which together do not fit the processor's cache: as in a model, "
                "everything comes from memory, for both arms.",
            ),
            "bench decode plain torch": (
                "Without compiled code",
                "On a CPU steps run in code that is compiled where the package is installed. Without a C++ compiler, "
                "and in fp16 or fp64 or at head sizes that are not multiples of 16, they run in plain torch, through "
                "buffers that are kept from step to step. There small steps are slower than dense ones: at 576 tokens "
                "a dense step takes the time of a few dozen calls into torch, and choosing costs some of them.",
            ),
            "bench decode load": (
                "Beside busy processes",
                "Each keeps a core busy. torch shares a step among its threads, which wait for one that has lost its "
                "core until the scheduler gives it back; compiled steps leave the threads alone where waiting costs "
                "more than they bring. Ratios say who waits here, not what gaze saves. Other work ran on the machine "
                "as well, see its load. What to set for the rest of a model: "
                "[on a CPU whose cores others use](../serving.md#on-a-cpu-whose-cores-others-use).",
            ),
        },
        "the same steps as CUDA graphs, in plain torch and with `triton`",
    ),
    "prefill": Text(
        "Prefill of a long video",
        "One layer's prefill without gradients: layout, descriptors, choice, attention and cache, beside causal "
        "attention and a plain cache. Peak memory is beyond queries, keys, values and the cache left behind, the "
        "output included. The last columns are exponents from one size to the next: time goes to N², memory to N.",
        {"bench prefill": ("Sizes", "")},
        "the same at the 4B decoder's sizes, 32 query heads on 8 KV heads of 128 in bf16",
    ),
    "attention": Text(
        "Attention of a training sample",
        "One layer over a little text, pictures of N_v tokens in regions of 6×6 with four context tokens per 576, and "
        "text, T tokens of text in all. Dense is plain causal attention without a mask in memory; `dense / this` is "
        "the time of its fastest form over the row's own. The times of gaze include describing, scoring and choosing "
        "regions; what is derived from the layout once for all layers of a forward call has a column of its own. "
        "Errors are the largest differences from float64 under the same selection, of outputs or of dq, dk and dv. "
        "`varlen_reference` is there to check others against and is in no picture.",
        {
            "bench attention": ("All backends", ""),
            "bench attention choice": (
                "What `auto` takes",
                "Each backend is held against `masked`, told the same choice: the error is the largest of a row of "
                "the output, dq, dk or dv, relative to that row. Of those that agree the fastest is taken, see "
                "[the method](../method.md#what-auto-does-on-a-gpu).",
            ),
        },
        "one layer with 32 query heads on 8 KV heads of 128, up to 147,456 visual tokens: `masked` beside `flex`, "
        "`flash_varlen` and `triton`",
    ),
    "train-step": Text(
        "Training step",
        "Forward, backward and AdamW of a whole preset with random weights, the vision tower frozen, on one sample "
        "with a video. The two dense rows have no context tokens: transformers' own attention, and gaze attention "
        'that keeps every region. "compressed" has a quarter of the visual tokens by the 3×3 convolution, so its '
        "steps are shorter for that too.",
        {"bench train-step": ("Steps", "")},
        "a whole step of the 4B preset at its real size in bf16, with MFU",
    ),
    "data": Text(
        "Data",
        "What one worker does in a second, and what an open index costs. Files are in the page cache: a cold disk "
        "reads at its own speed. Memory is the peak of a fresh process, the mapped index included, after 20,000 rows "
        "read at random.",
        {"bench data": ("Rates", "")},
    ),
}
"""By the bench's name, in the order of the pages."""
