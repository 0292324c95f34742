"""`CambrianGazeForConditionalGeneration`: the model with its head, for training and `generate`.

Shapes: B rows, S tokens of a row, N images and frames of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from cambrian_gaze.attention import GazeStats, SequenceGroup
from cambrian_gaze.attention.sequence import pad_to
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.token_types import IGNORED_LABEL
from cambrian_gaze.models.backbone import CambrianGazeModel, CambrianGazePreTrainedModel
from cambrian_gaze.models.cache.cache import GazeCache
from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.models.generation import GazeGenerationMixin
from cambrian_gaze.models.head_loss import head_losses
from cambrian_gaze.models.hf_internals import CACHE, EitherCacheName, one_cache, wants_dict
from cambrian_gaze.models.trace import TraceBuilder


@dataclass
class CambrianGazeCausalLMOutput(EitherCacheName, CausalLMOutputWithPast):
    """Output of the model with its head: the mean `loss` over the supervised tokens, `logits` [B, S, vocabulary], the
    `cache` (before transformers 5.24 `past_key_values`; both names are understood), and what follows."""

    token_losses: Tensor | None = None
    """[supervised tokens], row by row, where `return_token_losses` asked for them."""
    gaze: GazeStats | None = None
    """What was attended, where `return_gaze` asked for it."""


class CambrianGazeForConditionalGeneration(GazeGenerationMixin, CambrianGazePreTrainedModel, GenerationMixin):
    """The model with its language-model head, for training and `generate`."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: CambrianGazeConfig) -> None:
        super().__init__(config)
        self.model = CambrianGazeModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """[N, 3, H, W], as the processor gives them → [N, h·w, decoder width], what takes the place of a picture's
        placeholders."""
        return self.model.get_image_features(pixel_values)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: GazeCache | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        grid_thw: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        sample_ids: Tensor | None = None,
        continues: Tensor | None = None,
        routed: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        skip_logits: bool = False,
        return_token_losses: bool = False,
        gaze: dict[str, Any] | GazeConfig | None = None,
        return_gaze: bool | Literal["mass"] = False,
        gaze_trace: TraceBuilder | None = None,
        sequence_group: SequenceGroup | None = None,
        hidden_regions: Tensor | None = None,
        past_key_values: GazeCache | None = None,
        **kwargs: Any,
    ) -> CambrianGazeCausalLMOutput:
        """One pass over B rows of S tokens; with a cache, over their new tokens.

        Args:
            input_ids: int64 [B, S] with a placeholder for every visual and context token.
            attention_mask: [B, S] (with a cache: or the whole row so far), 0 for padding.
            position_ids: int64 [B, S]; None: from 0 on, padding skipped. Without mask, cache and `sample_ids`, a sample
                of a packed row begins where they do not go on by one, as in transformers' own models.
            cache: a `GazeCache`; `past_key_values` is its other name.
            pixel_values: [N, 3, H, W], images and frames in order of appearance.
            grid_thw: int64 [items, 3], (1, h, w) per image and (T, h, w) per video, after the projector; None: every
                item is an image, as in TRL's trainers, which hand on what they know by name.
            mm_token_type_ids: int64 [B, S]: 0 text, 1 image, 2 video, 3 context.
            sample_ids: int64 [B, S], the sample of each token of a packed row, -1 for padding.
            continues: bool [B], rows whose first item is the next frames of the video that the cache ends with.
            routed: bool [B, S], text queries that route; None: all. With `route_prompt` false, None means those that
                predict a label where there are labels, else the last of the prompt; after cached tokens it must be
                given: a prompt in several calls has True at its last token alone, an answer's tokens have True.
            labels: int64 [B, S], not shifted, -100 where nothing is supervised.
            logits_to_keep: compute logits of the last tokens only (0: of all).
            skip_logits: with labels, compute the head where something is supervised, a chunk of tokens at a time, and
                return the loss alone; at a vocabulary of 150,000 the logits of a whole batch are its largest tensor.
            return_token_losses: with `skip_logits`, the loss of each supervised token too.
            gaze: run-time options over the checkpoint's: a budget ("top_k", "keep_ratio" or "kv_budget"), …
            return_gaze: count what is attended; costs a synchronisation with the device. "mass" also measures the share
                of dense attention inside the chosen regions, without a cache; costs dense attention.
            sequence_group: ranks that were given this same batch and share its tokens. `logits` and `hidden_states` are
                then those of this rank's slice, ⌈S/P⌉ tokens of each row, and `loss` is its addend: loss and gradients
                of the batch are the sums over the ranks.
            hidden_regions: bool [B, R] or fewer columns, regions of each row (in order of appearance) that its text
                queries may not choose: what does the answer owe to them? `generate` takes it too. Every layer must
                route. Visual queries still see all that lies before them.

        Raises: ValueError where placeholders, grids and pixels disagree, or an option is unknown.
        """
        return_dict = wants_dict(self.config, kwargs)
        if mm_token_type_ids is None and input_ids is not None:
            self._refuse_untyped(input_ids, pixel_values)
        tokens = input_ids if inputs_embeds is None else inputs_embeds
        if labels is not None and tokens is not None and labels.shape != tokens.shape[:2]:
            raise ValueError(f"labels must be {list(tokens.shape[:2])} as the tokens are, got {list(labels.shape)}")
        if labels is not None and routed is None and not self.model.resolve_gaze(gaze).route_prompt:
            routed = torch.zeros_like(labels, dtype=torch.bool)
            routed[:, :-1] = labels[:, 1:] != IGNORED_LABEL
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=one_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            grid_thw=grid_thw,
            mm_token_type_ids=mm_token_type_ids,
            sample_ids=sample_ids,
            continues=continues,
            routed=routed,
            use_cache=use_cache,
            gaze=gaze,
            return_gaze=return_gaze,
            gaze_trace=gaze_trace,
            sequence_group=sequence_group,
            return_dict=True,
            hidden_regions=hidden_regions,
            **{k: v for k, v in kwargs.items() if k != "num_items_in_batch"},
        )
        hidden, vocabulary = outputs.last_hidden_state, self.config.text_config.vocab_size
        logits = loss = token_losses = None
        if labels is not None and kwargs.get("num_items_in_batch") is None:
            # The mean over the supervised tokens; 0 rather than 0 / 0 where there is none.
            kwargs["num_items_in_batch"] = (labels[:, 1:] != IGNORED_LABEL).sum().clamp(min=1)
        if labels is not None:
            targets = pad_to(labels[:, 1:], 1, labels.shape[1], fill=IGNORED_LABEL)
            if sequence_group is not None:
                targets = sequence_group.own(targets, fill=IGNORED_LABEL)
        if labels is not None and skip_logits:
            supervised = targets != IGNORED_LABEL
            targets = targets[supervised]
            losses = head_losses(hidden[supervised], self.lm_head, targets)
            loss = losses.sum() / kwargs["num_items_in_batch"]
            token_losses = losses.detach() if return_token_losses else None
        else:
            logits = self.lm_head(hidden[:, _kept(logits_to_keep)])
            if labels is not None:
                loss = self.loss_function(
                    logits=logits, labels=None, vocab_size=vocabulary, shift_labels=targets, **kwargs
                )
        out = CambrianGazeCausalLMOutput(
            loss=loss,
            token_losses=token_losses,
            logits=logits,
            hidden_states=outputs.hidden_states,
            gaze=outputs.gaze,
            **{CACHE: getattr(outputs, CACHE)},
        )
        return out if return_dict else out.to_tuple()

    @torch.compiler.disable
    def _refuse_untyped(self, input_ids: Tensor, pixel_values: Tensor | None) -> None:
        """Without token types every token is text: wrong as soon as there is a placeholder or a picture."""
        if pixel_values is not None:
            raise ValueError("pixel_values were given without mm_token_type_ids; pass everything the processor returns")
        if input_ids.shape[1] == 1:
            return
        ids = torch.tensor(
            [self.config.image_token_id, self.config.video_token_id, self.config.context_token_id],
            device=input_ids.device,
        )
        if torch.isin(input_ids, ids).any():
            raise ValueError(
                "input_ids hold visual placeholders, but mm_token_type_ids is missing; "
                "pass everything that the processor returns"
            )


def _kept(logits_to_keep: int | Tensor) -> slice | Tensor:
    return slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
