"""The tokens of a picture in the decoder's input: projected features and context tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cambrian_gaze.gaze.layout import CONTEXT, VISUAL, TokenLayout
from cambrian_gaze.gaze.token_types import VIDEO_TYPE


class GazeEmbeddings(nn.Module):
    """The parameters that a dense model lacks: |C| context tokens (paper, section 3.3)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.context_tokens = nn.Parameter(torch.empty(count, width)) if count else None


@torch.compiler.disable
def image_grids(pixel_values: Tensor | None, mm_token_type_ids: Tensor | None, grid: tuple[int, int]) -> Tensor | None:
    """`grid_thw` int64 [N, 3] of pictures [N, 3, H, W] that came without: of the model's `grid` (h, w) each. None where
    there are none, or a video, whose frames are not told apart."""
    if pixel_values is None or mm_token_type_ids is None or bool((mm_token_type_ids == VIDEO_TYPE).any()):
        return None
    return torch.tensor([[1, *grid]], device=mm_token_type_ids.device).expand(len(pixel_values), 3)


def check_frames(features: Tensor, grid_thw: Tensor | None, grid: tuple[int, int]) -> None:
    """Raises: ValueError where features [N, h·w, width] are not of the images and frames that `grid_thw` int64
    [items, 3] describes, or these are not of the model's `grid` (h, w)."""
    frames = [(h, w) for t, h, w in grid_thw.tolist() for _ in range(t)] if grid_thw is not None else []
    if len(frames) != len(features) or any(found != grid for found in frames):
        grids = ", ".join(f"{h}×{w}" for h, w in sorted(set(frames)))
        raise ValueError(
            f"pixel_values hold {len(features)} images or frames of {grid[0]}×{grid[1]} "
            f"visual tokens each, but grid_thw describes {len(frames)} of {grids or 'none'}, counted after the "
            "projector; use the processor that was saved with this model"
        )


def put_in_place(inputs_embeds: Tensor, layout: TokenLayout, features: Tensor, context_tokens: Tensor | None) -> Tensor:
    """Embeddings [B, S, width] with features [N, h·w, width] of N images and frames, and the context tokens
    [|C|, width] of each, in the place of their placeholders."""
    visual = features.flatten(0, 1).to(inputs_embeds)
    inputs_embeds = inputs_embeds.masked_scatter((layout.role == VISUAL)[..., None], visual)
    if context_tokens is not None:
        tokens = context_tokens.to(inputs_embeds).repeat(len(features), 1)
        inputs_embeds = inputs_embeds.masked_scatter((layout.role == CONTEXT)[..., None], tokens)
    return inputs_embeds
