"""Answers token by token: the text so far, the gaze so far, and how long it took."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.generation.utils import GenerateDecoderOnlyOutput

import cambrian_gaze
from cambrian_gaze.attention.policy.policy import VisiblePolicy
from cambrian_gaze.baselines.registry import options_of
from cambrian_gaze.demo.arrivals import Arrivals, Halt, Stop, Times
from cambrian_gaze.demo.conversation import Conversation, Steering
from cambrian_gaze.demo.limits import Limits
from cambrian_gaze.gaze.layout import IMAGE, VIDEO
from cambrian_gaze.models.generation_settings import settle
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.positions import check_positions
from cambrian_gaze.models.processing.processor import CambrianGazeProcessor
from cambrian_gaze.models.trace import TraceBuilder, boxes_of_row
from cambrian_gaze.viz.trace import Trace, TraceItem
from cambrian_gaze.viz.trace_record import Asked, model_facts, trace_items, trace_of


@dataclass(frozen=True)
class Progress:
    """An answer as far as it has come."""

    text: str
    trace: Trace | None
    times: Times
    done: bool = False
    output: Any = None
    """What `generate` returned, once it is done."""


@dataclass(frozen=True)
class _Asked:
    """What a question comes to for `generate`."""

    options: dict[str, Any]
    builder: TraceBuilder | None
    boxes: list[tuple[int, ...]]
    gaze: dict[str, Any]
    steering: dict[str, list[int]]
    named: dict[str, Any]
    """What the trace says of the model beside its name."""


class Talker:
    """A model that talks to one reader after the other.

    Args:
        name: what it is called.
    """

    def __init__(
        self,
        model: CambrianGazeForConditionalGeneration,
        processor: CambrianGazeProcessor,
        name: str,
        limits: Limits | None = None,
    ) -> None:
        self.model, self.processor, self.name, self.limits = model, processor, name, limits or Limits()
        settle(model, processor.tokenizer)
        self.config = model.model.resolve_gaze(None)
        self._facts = model_facts(model.name_or_path) | {"name": name}
        self._turn = threading.Lock()

    @property
    def top_k(self) -> int:
        """Regions that a query looks at in an image unless told otherwise."""
        budget, regions = self.config.image, self.regions_per_image
        if budget.top_k is not None:
            return min(budget.top_k, regions)
        if budget.kv_budget is not None:
            return max(1, min(regions, budget.kv_budget // budget.tokens_per_region))
        return max(1, -int(-(budget.keep_ratio or 1.0) * regions // 1))

    @property
    def regions_per_image(self) -> int:
        """Of one image."""
        return len(boxes_of_row([(1, *self.processor.grid_hw)], [IMAGE], self.config))

    def boxes(self, conversation: Conversation) -> list[tuple[int, ...]]:
        """The regions of all pictures, see `GazeTrace.region_boxes`."""
        videos = [isinstance(seen, list) for seen in conversation.visuals]
        frames = [len(seen) if video else 1 for seen, video in zip(conversation.visuals, videos, strict=True)]
        grids = [(count, *self.processor.grid_hw) for count in frames]
        return boxes_of_row(grids, [VIDEO if video else IMAGE for video in videos], self.config)

    def items(self, conversation: Conversation) -> list[TraceItem]:
        """The pictures as a trace keeps them."""
        return trace_items(self.boxes(conversation), conversation.visuals, conversation.sources)

    def bare(self, conversation: Conversation, items: list[TraceItem]) -> Trace:
        """A trace of no tokens: the pictures and their regions."""
        text = self.model.config.text_config
        shape = (0, text.num_hidden_layers, text.num_attention_heads)
        return Trace(
            prompt="",
            tokens=[],
            token_ids=np.zeros(0, dtype=np.int64),
            special=np.zeros(0, dtype=bool),
            regions=np.zeros((*shape, 1), dtype=np.int32),
            attended=np.zeros((*shape, 3), dtype=np.int32),
            boxes=np.array(self.boxes(conversation), dtype=np.int32).reshape(-1, 7),
            items=items,
            image_aspect_ratio=self.processor.image_aspect_ratio,
            model=self._facts,
            made_by=f"cambrian-gaze {cambrian_gaze.__version__}",
        )

    def answer(
        self,
        conversation: Conversation,
        steering: Steering | None = None,
        items: list[TraceItem] | None = None,
        *,
        dense: bool = False,
        policy: VisiblePolicy | None = None,
        stop: Stop | None = None,
        live: bool = True,
    ) -> Iterator[Progress]:
        """Answer the last question. Whoever stops asking for more ends the generation at the next token.

        Args:
            steering: budget, hidden and forced regions.
            items: `items(conversation)`, where the caller has them.
            dense: attend to everything, whatever `steering` says.
            policy: a baseline in the place of routing; its trace comes whole, at the end.
            stop: ends the answer at the next token once it is set, as it is.
            live: False gives the end alone, without attention weights, so that nothing else is done while times are
                measured.

        Raises: ValueError where prompt and answer exceed the decoder's positions, where every region is hidden, and
        where the model cannot hide any (layers that do not route).
        """
        items = self.items(conversation) if items is None else items
        asked = self._asked(conversation, steering or Steering(), dense, policy, weights=live)
        arrivals, own, result = Arrivals(), Stop(), []
        halt = Halt(self.limits.max_seconds, own, *([] if stop is None else [stop]))
        options = asked.options | {"streamer": arrivals, "stopping_criteria": StoppingCriteriaList([halt])}
        thread = threading.Thread(target=self._generate, args=(options, arrivals, result), daemon=True)

        def progress(output: Any = None) -> Progress:
            ids, done = list(arrivals.ids), output is not None
            trace = self._trace(conversation, asked, items, ids, output)
            return Progress(self._text(ids), trace, arrivals.times(), done, output)

        thread.start()
        try:
            while arrivals.wait():
                if live:
                    yield progress()
            thread.join()
            if isinstance(result[0], BaseException):
                raise result[0]
            yield progress(result[0])
        finally:
            own.set()
            thread.join()

    def _asked(
        self, conversation: Conversation, steering: Steering, dense: bool, policy: VisiblePolicy | None, weights: bool
    ) -> _Asked:
        boxes = self.boxes(conversation)
        steering = steering.within(len(boxes))
        everything = {"keep_ratio": 1.0, "min_keep_ratio": 0.0}
        gaze: dict[str, Any] = everything if dense or policy else steering.gaze(len(boxes))
        denied = None if dense or policy else steering.denied(len(boxes))
        if denied is not None and self.model.model.resolve_gaze(gaze).is_dense:
            gaze = {"top_k": len(boxes), "min_keep_ratio": 0.0}
        inputs = self.processor.apply_chat_template(conversation.messages, add_generation_prompt=True, tokenize=True)
        room = check_positions(self.model.config, inputs["input_ids"].shape[1], 1)
        options = dict(inputs.to(self.model.device)) | ({} if denied is None else {"hidden_regions": denied})
        options |= {"max_new_tokens": min(self.limits.max_new_tokens, room), "do_sample": False, "output_logits": True}
        builder = TraceBuilder(self.model.model.resolve_gaze(gaze), weights=weights)
        if policy is not None:
            options |= {
                "policy": policy.with_tokenizer(self.processor.tokenizer),
                "return_gaze": "weights" if weights else True,
            }
        else:
            options |= {"gaze": gaze, "gaze_trace": builder, "return_dict_in_generate": True}
        named = {name: sorted(getattr(steering, name)) for name in ("hidden", "forced")} if denied is not None else {}
        known = {} if policy is None else {"policy": options_of(policy)}
        return _Asked(options, None if policy else builder, boxes, gaze, named, known)

    def _trace(
        self, conversation: Conversation, asked: _Asked, items: list[TraceItem], ids: list[int], output: Any
    ) -> Trace | None:
        """Of the tokens so far; None while a policy answers, whose gaze comes at the end."""
        prompt = asked.options["input_ids"]
        if asked.builder is not None:
            output = output or GenerateDecoderOnlyOutput(sequences=_with(prompt, ids))
            output["gaze"] = asked.builder.build(len(ids), [asked.boxes], asked.options.get("grid_thw"))
        elif output is None:
            return None
        trace = trace_of(
            output,
            self.model,
            self.processor,
            Asked(prompt_tokens=prompt.shape[1], prompt=conversation.question, pictures=items, gaze=asked.gaze),
            facts=self._facts | asked.named,
        )
        trace.steering = asked.steering
        return trace

    def _generate(self, options: dict[str, Any], arrivals: Arrivals, result: list[Any]) -> None:
        try:
            with self._turn:
                arrivals.began = time.perf_counter()
                result.append(self.model.generate(**options))
        except Exception as error:
            result.append(error)
        finally:
            arrivals.news.put(False)

    def _text(self, ids: list[int]) -> str:
        text = self.processor.tokenizer.decode(ids, skip_special_tokens=True)
        return text.rstrip("\ufffd").strip()


def _with(prompt: Tensor, ids: list[int]) -> Tensor:
    """int64 [1, S + T]."""
    return torch.cat([prompt.cpu(), torch.tensor([ids], dtype=prompt.dtype).reshape(1, -1)], dim=1)
