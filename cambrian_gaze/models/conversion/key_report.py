"""Which tensor of a model comes from where: matched by name and shape against the model, and reported key by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

from cambrian_gaze.models.conversion.shards import Shards
from cambrian_gaze.models.conversion.weight_names import HEAD, Name


class TensorPart(NamedTuple):
    """A checkpoint that fills a part of the model."""

    title: str
    shards: Shards
    names: Mapping[str, Name]
    """What each of its tensors is called in the model."""
    prefixes: tuple[str, ...]
    """Beginnings of the names that it must fill completely."""


class TensorSource(NamedTuple):
    """Where a tensor of the model comes from."""

    part: TensorPart
    name: str


@dataclass
class KeyReport:
    """The tensors of a model and of the checkpoints it is made of."""

    loaded: dict[str, TensorSource] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    """Tensors of the model that no checkpoint has, and how they are initialised."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Tensors of the checkpoints that the model does not take, and why."""
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What else the user should know, one sentence each."""

    def check(self) -> None:
        """Raises: ValueError naming what is missing, unexpected or of another shape."""
        problems = [
            f"{len(found)} {text}: {', '.join(found[:5])}{' …' if len(found) > 5 else ''}"
            for found, text in (
                (self.missing, "missing"),
                (self.unexpected, "unexpected"),
                (self.mismatched, "of another shape"),
            )
            if found
        ]
        if problems:
            raise ValueError(f"the weights do not fit the model: {'; '.join(problems)}")

    def summary(self) -> str:
        """One line."""
        return (
            f"{len(self.loaded)} tensors loaded, {len(self.new)} new, {len(self.ignored)} ignored; "
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected, {len(self.mismatched)} of another shape"
        )

    def table(self) -> str:
        """Tensors by where they come from, and why some are new or ignored."""
        counts: dict[tuple[str, str], int] = {}
        for source in self.loaded.values():
            counts["loaded", source.part.title] = counts.get(("loaded", source.part.title), 0) + 1
        for kind, reasons in (("new", self.new), ("ignored", self.ignored)):
            for reason in reasons.values():
                counts[kind, reason] = counts.get((kind, reason), 0) + 1
        rows = [f"  {kind:<8} {count:>5}  {text}" for (kind, text), count in counts.items()]
        return "\n".join([*rows, *(f"  note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        return {
            "summary": self.summary(),
            "loaded": {target: {"from": s.part.title, "name": s.name} for target, s in self.loaded.items()},
            "new": self.new,
            "ignored": self.ignored,
            "missing": self.missing,
            "unexpected": self.unexpected,
            "mismatched": self.mismatched,
            "notes": self.notes,
        }


def model_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a checkpoint of `model` holds; a head tied to the token embeddings is not in it."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del shapes[HEAD]
    return shapes


def match(
    shapes: Mapping[str, tuple[int, ...]],
    parts: Sequence[TensorPart],
    new: Mapping[str, str],
    grown: Sequence[str] = (),
) -> KeyReport:
    """Find the source of every tensor.

    Args:
        shapes: of the tensors to fill.
        parts: the checkpoints.
        new: {beginning of a name: how it is initialised} of the tensors that no part has to fill.
        grown: tensors that may have more rows than their source has.
    """
    report = KeyReport()
    for part in parts:
        for name, (target, reason) in part.names.items():
            where = f"{part.title}: {name}"
            if target is None:
                report.ignored[where] = reason
            elif target not in shapes or not target.startswith(part.prefixes):
                report.unexpected.append(where)
            elif target in report.loaded:
                report.unexpected.append(f"{where} (so is {report.loaded[target].name})")
            else:
                report.loaded[target] = TensorSource(part, name)
                found, wanted = part.shards.entries[name].shape, shapes[target]
                grows = target in grown and found[1:] == wanted[1:] and found[0] < wanted[0]
                if found != wanted and not grows:
                    report.mismatched.append(f"{target} is {found} in the file and {wanted} in the model")
    covered = tuple(prefix for part in parts for prefix in part.prefixes)
    for target in shapes:
        if target in report.loaded:
            continue
        how = next((how for prefix, how in new.items() if target.startswith(prefix)), None)
        if how is None or target.startswith(covered):
            report.missing.append(target)
        else:
            report.new[target] = how
    return report
