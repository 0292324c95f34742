"""Settings for `generate` in a model's folder: the kind of each, checked before one of the wrong kind fails, or takes
all memory, in the midst of an answer."""

from __future__ import annotations

from typing import Any

MOST = {"num_beams": 64, "num_return_sequences": 64, "num_beam_groups": 64, "prompt_lookup_num_tokens": 4096}
"""Settings beyond which only memory is spent."""
_COUNTS = ("max_length", "max_new_tokens", "min_length", "min_new_tokens", "top_k")
_COUNTS += ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size")
_NUMBERS = ("temperature", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty")
_NUMBERS += ("encoder_repetition_penalty", "length_penalty", "penalty_alpha", "guidance_scale", "max_time")
_NUMBERS += ("diversity_penalty", "top_h")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")
_TOKENS += ("forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens")
_SWITCHES = ("do_sample", "use_cache")
_LARGEST_ID = 2**31 - 1


def fault_of_settings(settings: dict[str, Any]) -> str | None:
    """What is wrong with the first setting that is of another kind than `generate` takes; None where all are well."""
    for key, value in settings.items():
        if value is None:
            continue
        shown = f"it is {str(value)[:40]}"
        if key in MOST and not (_whole(value) and 1 <= value <= MOST[key]):
            return f"{key} must be a whole number from 1 to {MOST[key]}, {shown}"
        if key in _COUNTS and not (_whole(value) and value >= 0):
            return f"{key} must be a whole number from 0, {shown}"
        if key in _NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float)):
            return f"{key} must be a number, {shown}"
        if key in _SWITCHES and not isinstance(value, bool):
            return f"{key} must be true or false, {shown}"
        if key in _TOKENS:  # -1: none, in some published configurations
            ids = value if isinstance(value, list) else [value]
            if not all(_whole(one) and -1 <= one <= _LARGEST_ID for one in ids):
                return f"{key} must be a token's number, or several, {shown}"
        if key == "exponential_decay_length_penalty" and not (
            isinstance(value, list) and len(value) == 2 and _whole(value[0]) and isinstance(value[1], int | float)
        ):
            return f"{key} must be a length and a factor, {shown}"
    return None


def _whole(value: Any) -> bool:
    return type(value) is int
