"""`derive_layout`: from the tensors that the processor emits to the `TokenLayout`. The one place that does it.

A unit (image or frame) is h·w visual placeholders followed by |C| context placeholders; a video is its frames in order,
adjacent in the sequence. Whatever the placeholders and the grids disagree about is an error that names the counts.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.layout import CONTEXT, EMPTY_SLOT, IMAGE, PAD, TEXT, VIDEO, VISUAL, TokenLayout
from cambrian_gaze.gaze.regions import region_grid, region_ids

CONTEXT_TYPE = 3
"""Value of `mm_token_type_ids` for context placeholders (0 text, 1 image, 2 video)."""


def derive_layout(
    mm_token_type_ids: Tensor | None,
    attention_mask: Tensor,
    grid_thw: Tensor | None,
    config: GazeConfig,
    sample_ids: Tensor | None = None,
    past: TokenLayout | None = None,
    routed: Tensor | None = None,
    continues: Tensor | None = None,
) -> TokenLayout:
    """Layout of the tokens of one forward call.

    Args:
        mm_token_type_ids: int64 [B, S]: 0 text, 1 image token, 2 video token, 3 context token; None: all text.
        attention_mask: [B, S' ≥ S], 0 for padding; the last S columns count.
        grid_thw: int64 [items, 3]: (1, h, w) per image, (T, h, w) per video, after the projector, in the order of
            appearance over the batch; None: no visual tokens.
        sample_ids: int64 [B, S]: sample of each token in a packed row, -1 for padding.
        past: layout of the last tokens that the cache holds; numbering goes on from it.
        routed: bool [B, S]: text queries that route; None: all.
        continues: bool [B]: the row's first item here is the next frames of the video with which `past` ends; its grid
            counts these frames alone. None: every item is a new one. A temporal region that `past` left with fewer
            than r_t frames takes the frames it lacks, so that the layout is that of the whole video at once.

    Raises: ValueError where placeholders and grids disagree, and where there is no such video to continue.
    """
    mask = attention_mask if mm_token_type_ids is None else attention_mask[:, -mm_token_type_ids.shape[1] :]
    mask = mask.bool()
    rows, length = mask.shape
    device = mask.device
    types = mm_token_type_ids if mm_token_type_ids is not None else torch.zeros_like(mask, dtype=torch.int64)

    if mm_token_type_ids is not None and bool(((types < 0) | (types > CONTEXT_TYPE)).any()):
        raise ValueError(
            f"mm_token_type_ids must be 0 text, 1 image, 2 video or 3 context, got {int(types.min())} to "
            f"{int(types.max())}"
        )
    role = torch.full((rows, length), TEXT, dtype=torch.int8, device=device)
    role = role.masked_fill((types == 1) | (types == 2), VISUAL).masked_fill(types == CONTEXT_TYPE, CONTEXT)
    role = role.masked_fill(~mask, PAD)
    sample = torch.zeros_like(types) if sample_ids is None else sample_ids.to(types.dtype)
    sample = sample.masked_fill(~mask, -1)
    index = torch.arange(length, device=device).expand(rows, length)
    if past is not None:
        index = past.index[:, -1:] + 1 + index
    position_ids, next_position = _positions(mask, sample, past)

    none = torch.full((rows, length), -1, dtype=torch.int64, device=device)
    tokens = {"unit": none, "region": none, "slot": none}
    table = _table(past, rows, device)
    if mm_token_type_ids is not None:
        opened = _Continued(continues, past, mask, types)
        tokens, table = _place_units((types, role, index, sample), grid_thw, config, tokens, table, opened)
    elif grid_thw is not None and len(grid_thw):
        raise ValueError(f"{len(grid_thw)} image or video grids were given but no mm_token_type_ids")
    return TokenLayout(
        role=role,
        index=index,
        sample=sample,
        position_ids=position_ids,
        next_position=next_position,
        routed=torch.ones_like(mask) if routed is None else routed,
        **tokens,
        **table,
    )


def _positions(mask: Tensor, sample: Tensor, past: TokenLayout | None) -> tuple[Tensor, Tensor]:
    """Sequential over each sample, padding skipped."""
    count = mask.long().cumsum(1)
    previous = torch.where(mask, sample, -1).cummax(1).values  # samples are numbered in order; padding is skipped
    starts = torch.ones_like(mask)
    starts[:, 1:] = sample[:, 1:] != previous[:, :-1]
    before = torch.where(starts & mask, count - 1, 0).cummax(1).values
    position_ids = (count - 1 - before).clamp(min=0)
    next_position = count[:, -1] - before[:, -1]
    if past is not None:
        position_ids = position_ids + past.next_position[:, None]
        next_position = next_position + past.next_position
    return position_ids.masked_fill(~mask, 0), next_position


def _table(past: TokenLayout | None, rows: int, device: torch.device) -> dict[str, Tensor]:
    """Region table and unit counts so far."""
    if past is None:
        empty = torch.zeros((rows, 0), dtype=torch.int64, device=device)
        names = ("region_size", "region_end", "region_sample", "region_modality", "region_unit")
        return dict.fromkeys(names, empty) | {"num_units": torch.zeros(rows, dtype=torch.int64, device=device)}
    names = ("region_size", "region_end", "region_sample", "region_modality", "region_unit", "num_units")
    return {name: getattr(past, name) for name in names}


@lru_cache(maxsize=1024)
def _item_regions(grid: tuple[int, int, int], size: tuple[int, int, int]) -> tuple[Tensor, ...]:
    """Of one image or video: region and slot of each token [T·h·w]; size, first and last frame of each region."""
    ids = region_ids(grid, size)
    flat = ids.flatten()
    n_t, n_h, n_w = region_grid(grid, size)
    sizes = torch.bincount(flat, minlength=n_t * n_h * n_w)
    order = flat.argsort(stable=True)
    slot = torch.empty_like(flat)
    slot[order] = torch.arange(len(flat)) - (sizes.cumsum(0) - sizes)[flat[order]]
    first = torch.arange(n_t * n_h * n_w) // (n_h * n_w) * size[0]
    last = (first + size[0] - 1).clamp(max=grid[0] - 1)
    return flat, slot, sizes, first, last


def _place_units(
    new: tuple[Tensor, Tensor, Tensor, Tensor],
    grid_thw: Tensor | None,
    config: GazeConfig,
    tokens: dict[str, Tensor],
    table: dict[str, Tensor],
    continued: _Continued,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Number units, regions and slots of the new visual and context tokens, and extend the region table. `new`: types,
    role, index and sample of this call's tokens, each [B, S]."""
    types, role, index, sample = new
    device, (rows, length) = types.device, types.shape
    grids = [] if grid_thw is None else [tuple(g) for g in grid_thw.tolist()]
    context = config.num_context_tokens
    where = ((role == VISUAL) | (role == CONTEXT)).flatten().nonzero().flatten().cpu()
    kinds = types.flatten().cpu()[where]
    frame_tokens = torch.tensor([h * w + context for t, h, w in grids for _ in range(t)], dtype=torch.int64)
    _check_counts(kinds, grids, context, len(where))
    if not grids:
        return tokens, table
    frame_of = torch.repeat_interleave(torch.arange(len(frame_tokens)), frame_tokens)
    starts = frame_tokens.cumsum(0) - frame_tokens
    _check_runs(where, kinds, frame_tokens, grids, context, length, sample.flatten().cpu())

    frame_row = where[starts] // length
    new_units = torch.bincount(frame_row, minlength=rows)
    past_units = table["num_units"].cpu()
    unit = torch.arange(len(frame_tokens)) - (new_units.cumsum(0) - new_units)[frame_row] + past_units[frame_row]
    end_token = where[starts + frame_tokens - 1]
    flat_index, flat_sample = index.flatten().cpu(), sample.flatten().cpu()
    frame_end = flat_index[end_token] + 1

    past_regions = (table["region_size"] > 0).sum(1).cpu().tolist() if table["region_size"].numel() else [0] * rows
    count = list(past_regions)
    token_region, token_slot, entries = [], [], []
    frame = 0
    for t, h, w in grids:
        row = int(frame_row[frame])
        modality = int(kinds[starts[frame]])
        size = config.budget(modality).region_size
        # A region that is still short of frames takes the first of these: `shown` of its frames are in the past.
        shown = continued.frames_shown(row, (h, w), modality, size, count[row])
        if shown:
            count[row] -= region_grid((1, h, w), size)[1] * region_grid((1, h, w), size)[2]
        region, slot, sizes, first, last = _item_regions((shown + t, h, w), size)
        token_region.append((region + count[row])[shown * h * w :])
        token_slot.append(slot[shown * h * w :])
        number = torch.arange(len(sizes)) + count[row]
        fixed = torch.tensor([row, int(flat_sample[where[starts[frame]]]), modality]).expand(len(sizes), 3)
        end, first_unit = frame_end[frame + last - shown], unit[frame] + first - shown
        entries.append(torch.cat([torch.stack([number, sizes, end, first_unit], 1), fixed], 1))
        count[row] += len(sizes)
        frame += t

    visual = kinds != CONTEXT_TYPE
    flat = {name: values.flatten().cpu().clone() for name, values in tokens.items()}
    flat["unit"][where] = unit[frame_of]
    flat["region"][where[visual]] = torch.cat(token_region)
    flat["slot"][where[visual]] = torch.cat(token_slot)
    tokens = {name: values.view(rows, length).to(device) for name, values in flat.items()}

    entry = torch.cat(entries)
    at = (entry[:, 4], entry[:, 0])
    columns = {"region_size": 1, "region_end": 2, "region_unit": 3, "region_sample": 5, "region_modality": 6}
    empty = {"region_size": 0, "region_end": EMPTY_SLOT, "region_unit": -1, "region_sample": -1, "region_modality": 0}
    extended = {"num_units": table["num_units"] + new_units.to(device)}
    for name, column in columns.items():
        wide = torch.full((rows, max(count)), empty[name], dtype=torch.int64)
        wide[:, : table[name].shape[1]] = table[name].cpu()
        wide[at] = entry[:, column]
        extended[name] = wide.to(device)
    return tokens, extended


class _Continued:
    """Rows whose first item goes on with the video that the past ends with."""

    def __init__(self, continues: Tensor | None, past: TokenLayout | None, mask: Tensor, types: Tensor) -> None:
        self.rows = set() if continues is None else set(continues.nonzero().flatten().tolist())
        self.past = past
        if not self.rows:
            return
        first = mask.long().argmax(1)
        for row in sorted(self.rows):
            begins = int(types[row, first[row]])
            if begins != VIDEO or not mask[row, first[row]]:
                raise ValueError(
                    f"row {row} is to continue a video, but begins with a token of type {begins}, not {VIDEO}"
                )
            if past is None or self._last(row) is None:
                raise ValueError(
                    f"row {row} is to continue a video, but none ends where its past ends: text closes a video, and "
                    "frames after it are a new one"
                )

    def _last(self, row: int) -> int | None:
        """The row's last region, where it is of a video that ends with the past."""
        last = int((self.past.region_size[row] > 0).sum()) - 1
        if last < 0 or self.past.region_modality[row, last] != VIDEO:
            return None
        return last if self.past.region_end[row, last] == self.past.index[row, -1] + 1 else None

    def frames_shown(self, row: int, hw: tuple[int, int], modality: int, size: tuple[int, int, int], count: int) -> int:
        """Frames in the past of the temporal region that the row's next item goes on with; 0 for a new region."""
        if row not in self.rows:
            return 0
        self.rows.discard(row)
        past, per_frame = self.past, _item_regions((1, *hw), size)[2]
        unit = past.region_unit[row, :count].cpu()
        shown = int(past.num_units[row] - unit[-1])
        sizes = past.region_size[row, :count].cpu()[
            unit == unit[-1]
        ]  # one layer of regions in time begins at one frame
        if modality != VIDEO or not torch.equal(sizes, per_frame * shown):
            raise ValueError(
                f"row {row} continues a video with frames of {hw[0]}×{hw[1]} visual tokens, but the regions of its "
                f"last frames hold {sizes.tolist()} tokens: another grid or another region size"
            )
        return shown % size[0]


def _check_counts(kinds: Tensor, grids: list[tuple[int, int, int]], context: int, found: int) -> None:
    frames = sum(t for t, _, _ in grids)
    want_visual = sum(t * h * w for t, h, w in grids)
    have_visual = int((kinds != CONTEXT_TYPE).sum())
    have_context = found - have_visual
    if have_visual != want_visual or have_context != frames * context:
        raise ValueError(
            f"the text holds {have_visual} visual and {have_context} context placeholders, but the {len(grids)} grids "
            f"given ({frames} images or frames, |C|={context}) need {want_visual} and {frames * context}; "
            "check that grid_thw counts tokens after the projector and that processor and model agree on |C|"
        )


def _check_runs(
    where: Tensor,
    kinds: Tensor,
    frame_tokens: Tensor,
    grids: list[tuple[int, int, int]],
    context: int,
    length: int,
    sample: Tensor,
) -> None:
    """Each unit is one unbroken run of h·w visual and |C| context placeholders; frames of a video are adjacent."""
    frame_of = torch.repeat_interleave(torch.arange(len(frame_tokens)), frame_tokens)
    offset = torch.arange(len(where)) - (frame_tokens.cumsum(0) - frame_tokens)[frame_of]
    is_context = offset >= (frame_tokens[frame_of] - context)
    item_of_frame = torch.repeat_interleave(torch.arange(len(grids)), torch.tensor([t for t, _, _ in grids]))
    item = item_of_frame[frame_of]
    item_start = torch.searchsorted(item, torch.arange(len(grids)))
    modality = kinds[item_start]
    wrong = (kinds == CONTEXT_TYPE) != is_context
    wrong |= ~is_context & (kinds != modality[item])
    broken = torch.zeros_like(wrong)
    same = item[1:] == item[:-1]
    torn = (where[1:] != where[:-1] + 1) | (where[1:] // length != where[:-1] // length)
    broken[1:] = same & (torn | (sample[where[1:]] != sample[where[:-1]]))
    bad = (wrong | broken).nonzero().flatten()
    if len(bad):
        first = int(bad[0])
        number = int(item[first])
        t, h, w = grids[number]
        raise ValueError(
            f"row {int(where[first]) // length}, token {int(where[first]) % length}: the placeholders of item {number} "
            f"are not the unbroken run of {t} × ({h}·{w} visual + {context} context) that its grid {(t, h, w)} needs"
        )
    many = [i for i, (t, _, _) in enumerate(grids) if t > 1 and int(modality[i]) == IMAGE]
    if many:
        raise ValueError(f"item {many[0]} has {grids[many[0]][0]} frames but its placeholders are image placeholders")
