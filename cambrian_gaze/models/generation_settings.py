"""How a model's answers end, and how they are decoded unless a call says otherwise: decided here for every model that
is built, trained, converted, attached, exported or served.

A base language model ends at its own `<|endoftext|>`, while an answer in this project's chat format ends with the turn:
without the second among the end tokens a trained model would go on for ever.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

from cambrian_gaze.data.conversation import END_OF_TURN
from cambrian_gaze.models.folders.opening import opening

SAMPLING = {"do_sample", "temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"}
SAMPLING |= {"top_h", "repetition_penalty", "no_repeat_ngram_size", "length_penalty", "num_beams", "penalty_alpha"}
"""Settings that change which tokens are chosen: a language model's own were tuned for its own chats."""

_LENGTHS = ("max_new_tokens", "max_length", "min_new_tokens", "min_length")


def end_tokens(tokenizer: Any, settings: GenerationConfig | None = None) -> list[int]:
    """Ids that end an answer: those of `settings`, the tokenizer's own, and the chat template's end of turn.

    Raises: ValueError where the tokenizer lacks the last, so that no answer could end.
    """
    turn = tokenizer.get_vocab().get(END_OF_TURN)
    if turn is None:
        raise ValueError(
            f"the tokenizer has no {END_OF_TURN}, with which an answer ends in this project's chat format; use a "
            "tokenizer that speaks ChatML, such as Qwen's"
        )
    before = None if settings is None else settings.eos_token_id
    before = [] if before is None else list(before) if isinstance(before, list | tuple) else [before]
    return list(dict.fromkeys(i for i in (*before, tokenizer.eos_token_id, turn) if i is not None))


def settings_of_backbone(
    tokenizer: Any, settings: GenerationConfig | None = None, keep_sampling: bool = False
) -> GenerationConfig:
    """Settings for `generate` of a model made of a language model with `settings`: its end tokens and lengths, and with
    `keep_sampling` the rest of them too; greedy otherwise."""
    if settings is None:
        settings = GenerationConfig()
    if keep_sampling:
        made = GenerationConfig.from_dict(settings.to_dict())
    else:
        lengths = {name: getattr(settings, name, None) for name in _LENGTHS}
        made = GenerationConfig(**{name: value for name, value in lengths.items() if value is not None})
    made.bos_token_id = settings.bos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    made.eos_token_id = end_tokens(tokenizer, settings)
    made.pad_token_id = _pad(tokenizer, made)
    return made


def settle(model: Any, tokenizer: Any) -> None:
    """Give a model that is in memory the end tokens that it lacks, and a padding token. Its other settings stay: they
    were saved with it."""
    settings = model.generation_config
    settings._from_model_config = False  # `generate` and saving would derive it anew from the configuration
    settings.eos_token_id = end_tokens(tokenizer, settings)
    settings.pad_token_id = _pad(tokenizer, settings)


def settings_from(
    folder: Path | str | None, config: PreTrainedConfig, tokenizer: Any, keep_sampling: bool = False
) -> tuple[GenerationConfig, list[str]]:
    """`settings_of_backbone` of the language model in `folder`, and in words what of its settings is left out. Where
    it has no `generation_config.json`, or there is no folder, the model's configuration says how it ends.

    Raises: FolderError for settings that are none.
    """
    if folder is None or not (Path(folder) / "generation_config.json").is_file():
        return settings_of_backbone(tokenizer, GenerationConfig.from_model_config(config), keep_sampling), []
    with opening(folder) as source:
        settings = GenerationConfig.from_pretrained(source)
    said = settings.to_diff_dict()
    dropped = [f"{name}={said[name]}" for name in sorted(SAMPLING & set(said)) if said[name]]
    notes = []
    if dropped and not keep_sampling:
        notes = [f"answers are greedy: the language model's sampling settings are left out ({', '.join(dropped)})"]
    return settings_of_backbone(tokenizer, settings, keep_sampling), notes


def _pad(tokenizer: Any, settings: GenerationConfig) -> int:
    """The tokenizer's padding token; where it has none, the model's, or the first that ends an answer."""
    own = tokenizer.pad_token_id
    own = settings.pad_token_id if own is None else own
    return settings.eos_token_id[0] if own is None else own
