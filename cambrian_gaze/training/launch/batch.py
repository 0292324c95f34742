"""Gradient accumulation from the global batch, so that one configuration is right on any number of devices.

`python -m cambrian_gaze.training.launch.batch CONFIG.yaml [--key value …] --ranks N` says what a run would do before
its ranks start: `scripts/launch.sh` asks it. Nothing here imports torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cambrian_gaze.training.config.flags import number, read_flags, split_files, take
from cambrian_gaze.training.config.layers import ConfigError
from cambrian_gaze.training.config.values import gather

RANKS = "ranks"
"""How `scripts/launch.sh` says the number of ranks; no key of a run."""
PER_DEVICE, ACCUMULATION, GLOBAL, SHARERS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "global_batch_size",
    "sequence_parallel_size",
)
DEFAULTS = {RANKS: 1, PER_DEVICE: 8, ACCUMULATION: 1, SHARERS: 1}
"""Those of `TrainingArguments`, and one rank."""


def accumulation_steps(global_batch_size: int, per_device: int, ranks: int) -> int:
    """Micro-batches per optimizer step on each rank: global batch / (per-device batch × ranks).

    Raises: ValueError where that is no whole number, with per-device batches for which it is one.
    """
    if min(global_batch_size, per_device, ranks) < 1:
        raise ValueError(f"{GLOBAL}={global_batch_size}, {PER_DEVICE}={per_device} and {ranks} ranks must be positive")
    steps, rest = divmod(global_batch_size, per_device * ranks)
    if not rest:
        return steps
    share, left = divmod(global_batch_size, ranks)
    if left:
        remedy = f"use a number of ranks that divides {global_batch_size}, or another {GLOBAL}"
    else:
        fitting = [str(size) for size in range(1, share + 1) if share % size == 0]
        remedy = f"set {PER_DEVICE} to one of {', '.join(fitting)}"
    raise ValueError(
        f"{GLOBAL} {global_batch_size} is no multiple of {ranks} ranks × {PER_DEVICE} {per_device}; {remedy}"
    )


def describe(argv: Sequence[str], ranks: int) -> str:
    """`512 samples a step: 64 ranks × 8, accumulated over 1` for a configuration and its flags.

    Raises: ConfigError where they cannot be read, or the batch does not divide.
    """
    values, _ = gather(argv)
    per_device, size = _number(values, PER_DEVICE), _number(values, SHARERS)
    if size < 1 or ranks % size:
        raise ConfigError(f"{SHARERS} {size} must divide the number of ranks, {ranks}")
    readers = ranks // size
    if GLOBAL in values:
        wanted = _number(values, GLOBAL)
        try:
            steps = accumulation_steps(wanted, per_device, readers)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    else:
        steps = _number(values, ACCUMULATION)
        wanted = per_device * steps * readers
    who = f"{ranks} ranks" if size == 1 else f"{readers} groups of {size} ranks"
    return f"{wanted} samples a step: {who} × {per_device}, accumulated over {steps}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the description, or the reason why there is none. Returns the exit status."""
    files, words = split_files(list(sys.argv[1:] if argv is None else argv))
    try:
        own, flags = take(words, [RANKS])
        print(describe([*files, *flags], _number(read_flags(own), RANKS)))
    except ConfigError as error:
        print(f"batch: {error}", file=sys.stderr)
        return 2
    return 0


def _number(values: Mapping[str, Any], key: str) -> int:
    return number(key, values.get(key, DEFAULTS.get(key)))


if __name__ == "__main__":
    sys.exit(main())
