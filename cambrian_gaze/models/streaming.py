"""`GazeStream`: frames appended to a live cache as they come, and questions asked in between.

What the model has read at any time is one token sequence, `GazeStream.input_ids`; the cache equals a fresh prefill of
it. Frames appended with no text between them are one video: a temporal region (r_t > 1) that lacks frames takes the
next ones. Text closes the video, so that a question sees every region of the frames before it, the last one with the
frames that it has. A question that is forgotten leaves the video open again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cambrian_gaze.data.conversation import END_OF_TURN, render
from cambrian_gaze.data.encode import encode_conversation, tokenize_segments
from cambrian_gaze.data.expand import PlaceholderIds, expand_placeholders
from cambrian_gaze.gaze.layout import VIDEO
from cambrian_gaze.gaze.token_types import TEXT_TYPE
from cambrian_gaze.models.cache.cache import GazeCache
from cambrian_gaze.models.cache.paging import PagedGazeCache, PagingStats
from cambrian_gaze.models.policies import policy_gaze, stream_cache
from cambrian_gaze.models.processing.processor import Picture, open_picture
from cambrian_gaze.models.trace import GazeTrace, boxes_of_row

if TYPE_CHECKING:
    from cambrian_gaze.attention.policy.policy import VisiblePolicy
    from cambrian_gaze.attention.policy.state import PolicyState
    from cambrian_gaze.models.pretrained import CambrianGazePreTrainedModel
    from cambrian_gaze.models.processing.processor import CambrianGazeProcessor


@dataclass(frozen=True)
class StreamAnswer:
    """What `GazeStream.ask` returns."""

    text: str
    """The answer, without special tokens."""

    ids: Tensor
    """int64 [T]: its tokens, the end token included."""

    gaze: GazeTrace | None = None
    """Where the model looked, if `return_gaze` asked for it."""

    paging: PagingStats | None = None
    """What paging has done since the stream began, if the stream offloads."""

    retained: Tensor | None = None
    """int64 [layers, KV heads]: visual entries in memory at the answer's end, if the stream has a policy."""

    def __str__(self) -> str:
        return self.text


class GazeStream:
    """A chat with one video source: `append` frames, `ask` questions.

    Args:
        model: a `CambrianGazeForConditionalGeneration`. Its weights are only read; several streams may share it.
        processor: the model's.
        gaze: run-time options of every answer and of the cache, e.g. {"top_k": 2}.
        gaze_offload: as in `generate`: keep pages in host memory and a pool of this size on the device.
        frames_per_call: frames that go through the decoder at once; bounds the memory of one `append`.
        policy: a baseline of `cambrian_gaze.baselines` in the place of routing, as in `generate`. It is asked after
            each frame what stays in memory. What it decides at a question that is forgotten is undone with it.

    Raises: ValueError for a policy that needs the whole prompt, or beside `gaze_offload`.
    """

    def __init__(
        self,
        model: CambrianGazePreTrainedModel,
        processor: CambrianGazeProcessor,
        *,
        gaze: dict[str, Any] | None = None,
        gaze_offload: int | str | None = None,
        frames_per_call: int = 8,
        policy: VisiblePolicy | None = None,
    ) -> None:
        if policy is not None:
            gaze = policy_gaze(policy, gaze)
        self.model, self.processor, self.gaze, self.frames_per_call = model, processor, gaze, frames_per_call
        config = model.model.resolve_gaze(gaze)
        layers = model.config.text_config.num_hidden_layers
        if policy is None:
            self.cache = GazeCache(config) if gaze_offload is None else PagedGazeCache(config, gaze_offload, layers)
        elif gaze_offload is not None:
            raise ValueError(f"policy {policy.name!r} makes a cache of its own: leave gaze_offload out")
        else:
            self.cache = stream_cache(policy.with_tokenizer(processor.tokenizer), model, gaze)
        self.frames = 0
        """Frames appended so far."""
        self._opening = processor.tokenizer.encode("<|im_start|>user\n", add_special_tokens=False)
        system = processor.with_system([{"role": "user", "content": ""}])[:-1]
        before = encode_conversation(system, processor.tokenizer, [], 0)["input_ids"] if system else []
        self._ids: list[int] = before + self._opening
        """All tokens; the cache holds the first `cache.length` of them, the others go in with what comes next."""
        self._grids: list[tuple[int, int, int]] = []
        """(frames, h, w) of each video: a new one begins where text came between."""

    @property
    def input_ids(self) -> Tensor:
        """int64 [1, S]: the tokens so far, those that wait for the next call included."""
        return torch.tensor([self._ids], device=self.model.device)

    @property
    def grid_thw(self) -> Tensor:
        """int64 [videos, 3]: frames and grid of each video so far."""
        return torch.tensor(self._grids, dtype=torch.int64).reshape(-1, 3)

    @torch.no_grad()
    def append(self, frames: Tensor | Sequence[Picture]) -> None:
        """Take in frames: pictures or paths, or what `processor.preprocess_images` returns, [n, 3, H, W]."""
        if not isinstance(frames, Tensor):
            frames = self.processor.preprocess_images([open_picture(frame) for frame in frames])
        for some in frames.split(self.frames_per_call):
            self._feed(some)

    def ask(
        self, question: str, *, keep: bool = False, return_gaze: bool | str = False, **generate_kwargs: Any
    ) -> StreamAnswer:
        """Answer a question about the frames so far.

        Args:
            question: plain text.
            keep: leave question and answer in the history, as turns of the chat. Otherwise they are forgotten: later
                questions see the frames alone, and later frames go on with the same video.
            return_gaze, generate_kwargs: as for `generate`, e.g. max_new_tokens=64.
        """
        if generate_kwargs.get("policy") is not None:
            raise ValueError("a stream's policy decides as its frames come: give it to stream(…, policy=…), not to ask")
        before, held = len(self._ids), self.cache.length
        decided = None if self.cache.policy is None else self.cache.policy.copy()
        ids = self.input_ids.new_tensor([self._ids + self._turn(question)])
        self._spread(generate_kwargs)
        try:
            output = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=torch.zeros_like(ids) if self._placeholder_in(ids[0, held:]) else None,
                cache=self.cache,
                gaze=self.gaze,
                return_gaze=return_gaze,
                return_dict_in_generate=True,
                **generate_kwargs,
            )
        except BaseException:
            self._forget(held, decided)
            raise
        retained = None if decided is None else self.cache.policy.retained_visual(self.cache.page_layout)[0]
        if not keep or self.cache.last.shape[0] > 1:
            # Kept text is read again where beams ran: no row of the cache need hold the winner's.
            self._forget(held, decided)
        answer = output.sequences[0, ids.shape[1] :]
        if keep:
            self._ids = output.sequences[0].tolist()
            self._close_turn(answer)
        else:
            del self._ids[before:]
        return StreamAnswer(
            text=self.processor.tokenizer.decode(answer, skip_special_tokens=True).strip(),
            ids=answer.cpu(),
            gaze=self._placed(output["gaze"]) if return_gaze else None,
            paging=self.cache.paging_stats() if isinstance(self.cache, PagedGazeCache) else None,
            retained=None if retained is None else retained.cpu(),
        )

    def _turn(self, question: str) -> list[int]:
        """The tokens of a question and of the opening of its answer, as they follow on what was read so far."""
        after_frames = bool(self._grids) and self.cache.length == len(self._ids)
        parts = [{"type": "video"}] * after_frames + [{"type": "text", "text": question}]
        segments = render([{"role": "user", "content": parts}], add_generation_prompt=True)[1 + after_frames :]
        placeholders = PlaceholderIds.from_tokenizer(self.processor.tokenizer)
        pieces = tokenize_segments(segments, self.processor.tokenizer, placeholders)
        return [token for piece in pieces for token in piece]

    def _feed(self, pixels: Tensor) -> None:
        """One call: the text that waits, and frames."""
        grid = (len(pixels), *self.processor.grid_hw)
        waiting = self._ids[self.cache.length :]
        placeholders = PlaceholderIds.from_tokenizer(self.processor.tokenizer)
        new = expand_placeholders([placeholders.video], [grid], placeholders, self.processor.num_context_tokens)
        device = self.model.device
        going_on = bool(self._grids) and not waiting
        ids = torch.tensor([waiting + new.input_ids], device=device)
        dense = not self.model.model.resolve_gaze(self.gaze).route_prompt
        self.model(
            input_ids=ids,
            mm_token_type_ids=torch.tensor([[TEXT_TYPE] * len(waiting) + new.mm_token_type_ids], device=device),
            pixel_values=pixels.to(device),
            grid_thw=torch.tensor([grid], device=device),
            continues=torch.tensor([going_on]),
            routed=torch.zeros_like(ids, dtype=torch.bool) if dense else None,
            cache=self.cache,
            use_cache=True,
            gaze=self.gaze,
            logits_to_keep=1,
        )
        self._ids += new.input_ids
        if going_on:
            self._grids[-1] = (self._grids[-1][0] + grid[0], *grid[1:])
        else:
            self._grids.append(grid)
        self.frames += grid[0]

    def _placeholder_in(self, ids: Tensor) -> bool:
        """Whether a kept answer holds a placeholder token: text nevertheless."""
        return not set(PlaceholderIds.from_tokenizer(self.processor.tokenizer)).isdisjoint(ids.tolist())

    def _spread(self, generate_kwargs: dict[str, Any]) -> None:
        """A row of the cache for each beam and each sequence, as `generate` makes of its other inputs."""
        config = generate_kwargs.get("generation_config") or self.model.generation_config
        counts = [generate_kwargs.get(n) or getattr(config, n) or 1 for n in ("num_beams", "num_return_sequences")]
        if max(counts) > 1 and self.cache.length:
            self.cache.batch_repeat_interleave(max(counts))

    def _forget(self, length: int, decided: PolicyState | None) -> None:
        """Back to one row of `length` tokens, and to what the policy had decided by then."""
        if self.cache.last is None:
            return
        if not length:
            self.cache.reset()
            return
        if self.cache.last.shape[0] > 1:
            self.cache.batch_select_indices(torch.zeros(1, dtype=torch.int64))
        self.cache.crop(length)
        self.cache.policy = decided

    def _close_turn(self, answer: Tensor) -> None:
        end, tokenizer = END_OF_TURN, self.processor.tokenizer
        if not len(answer) or int(answer[-1]) != tokenizer.convert_tokens_to_ids(end):
            self._ids += tokenizer.encode(end, add_special_tokens=False)
        self._ids += tokenizer.encode("\n", add_special_tokens=False) + self._opening

    def _placed(self, trace: GazeTrace) -> GazeTrace:
        """The trace with the grids and boxes of the frames, which `generate` has not seen."""
        boxes = boxes_of_row(self._grids, [VIDEO] * len(self._grids), self.cache.config)
        return dataclasses.replace(trace, grid_thw=self.grid_thw, boxes=[boxes] * len(trace.boxes))
