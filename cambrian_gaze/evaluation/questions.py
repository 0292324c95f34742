"""Questions and the options of answering them: what an answer depends on, and hence the key under which it is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cambrian_gaze.attention.policy.policy import VisiblePolicy
from cambrian_gaze.attention.policy.routing import check_gaze
from cambrian_gaze.baselines.registry import options_of
from cambrian_gaze.data.conversation import IMAGE_POSITIONS
from cambrian_gaze.data.media.frame_sampling import FrameSampling
from cambrian_gaze.data.records.records import Record
from cambrian_gaze.evaluation.journal import entry_key
from cambrian_gaze.evaluation.prompts import media_identity, prompt_messages, question_text, reference, with_media
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.models.policies import policy_gaze
from cambrian_gaze.plugins import plugin_of


@dataclass(frozen=True)
class AnswerOptions:
    """How answers are generated. Everything but `batch_size` is part of an answer's identity."""

    generation: dict[str, Any] = field(default_factory=lambda: {"max_new_tokens": 64, "do_sample": False})
    """Keywords of `generate`."""
    gaze: dict[str, Any] = field(default_factory=dict)
    """Run-time options of the gaze, as `generate(gaze=…)` takes them; empty: as the checkpoint has it."""
    policy: VisiblePolicy | None = None
    """A baseline in the place of routing; see `cambrian_gaze.baselines`."""
    blank_images: bool = False
    """Show pictures of the mean colour instead of the record's (a control: what is known without seeing?)."""
    hidden: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Record id → regions that the text of prompt and answer may not choose: `hidden_regions` of the model."""
    keep_regions: bool = False
    """Store the regions chosen per token, layer and head with each answer."""
    keep_mass: bool = False
    """Store what `attention_mass.answer_mass` says of them too; reads all visual keys. Not under a policy."""
    sampling: FrameSampling = FrameSampling()
    """Which frames of a video are shown. Its time limit is no part of an answer's identity."""
    batch_size: int = 64
    image_position: str = IMAGE_POSITIONS[0]
    """Where the pictures of a record's turns stand, as in training; see `data.conversation`."""
    seed: int | None = None
    """Of sampling, if `generation` samples: each batch begins with one made of it and of the batch's questions."""
    video_folder: str | Path | None = None
    """What the records' video paths start from; None: where their images do. No part of an answer's identity."""
    traced: Callable[[Question, Any, int, int], object] | None = None
    """Called for each new answer with its question, what `generate` returned (logits included), its row, and the tokens
    of the prompt. No part of an answer's identity."""

    def gaze_config(self, model: Any) -> GazeConfig:
        """The gaze under which the model answers. Raises ValueError where it does not go with the policy."""
        if self.policy is None:
            return model.config.gaze_config.override(**self.gaze)
        config = model.config.gaze_config.override(**policy_gaze(self.policy, self.gaze))
        check_gaze(self.policy, config)
        return config

    def policy_identity(self, config: GazeConfig) -> dict[str, Any]:
        """`policy` with its options, and the digests of the plugins that policy, descriptor and backend are of, as part
        of an answer's identity; empty without any."""
        named = [("descriptor", config.descriptor), ("attention backend", config.backend)]
        if self.policy is not None:
            named.append(("policy", self.policy.name))
        own = {f"{kind} {name}": plugin.sha256 for kind, name in named if (plugin := plugin_of(kind, name))}
        identity = {} if self.policy is None else {"policy": options_of(self.policy)}
        return identity | ({"of_plugins": own} if own else {})


@dataclass(frozen=True)
class Question:
    """What is asked, and the key of its answer."""

    id: str
    messages: list[dict[str, Any]]
    """The prompt, its pictures and videos not loaded yet."""
    key: str
    load: Callable[[], list[dict[str, Any]]]
    """The prompt with its pictures and videos."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else to store with the answer, for readers."""
    hidden: frozenset[int] = frozenset()
    """Regions that its text may not choose."""
    place: tuple[str, int] | None = None
    """File and row, for errors."""


def record_question(
    record: Record,
    folder: str | Path,
    options: AnswerOptions,
    config: GazeConfig,
    fingerprint: str,
    system: str | None,
) -> Question:
    """The question that a record asks under these options. Raises RecordError for a record that asks none, and
    MediaError where its media are missing.

    Args:
        config: the gaze under which it is answered.
        fingerprint: of weights and processor.
        system: the checkpoint's system prompt.
    """
    messages = prompt_messages(record, options.image_position)
    videos = options.video_folder
    hidden = frozenset(options.hidden.get(record.id, ()))
    key = entry_key(
        id=record.id,
        prompt=messages,
        **media_identity(record, folder, options.sampling, videos),
        generation=options.generation,
        gaze=config.to_dict(),
        blank_images=options.blank_images,
        keep_regions=options.keep_regions,
        weights=fingerprint,
        **({"system": system} if system else {}),
        **({} if options.seed is None else {"seed": options.seed}),
        **({"hidden": sorted(hidden)} if hidden else {}),
        **({"keep_mass": True} if options.keep_mass else {}),
        **options.policy_identity(config),
    )
    facts = {"question": question_text(messages), "reference": reference(record)}

    def load() -> list[dict[str, Any]]:
        return with_media(messages, record, folder, options.sampling, videos)

    return Question(record.id, messages, key, load, facts, hidden, (record.file, record.row))
