"""Where a run stands in its data, kept in every checkpoint, and which steps are left from there."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cambrian_gaze.data.mixture.plan import EpochOrder
from cambrian_gaze.files import write_json

logger = logging.getLogger(__name__)

FILE = "data_position.json"


@dataclass(frozen=True)
class Split:
    """How many packs a step takes, and in which shares."""

    batch_size: int
    """Packs of a rank's micro-batch."""
    accumulation: int = 1
    """Micro-batches of a step."""
    world_size: int = 1
    drop_last: bool = False
    """Leave out the packs at the end of an epoch that do not fill a micro-batch on every rank."""

    @property
    def micro_batch(self) -> int:
        """Packs of a micro-batch over all ranks."""
        return self.batch_size * self.world_size

    @property
    def global_batch(self) -> int:
        """Packs of a step."""
        return self.micro_batch * self.accumulation

    def micro_steps(self, packs: int) -> int:
        """Micro-batches that `packs` packs make."""
        return packs // self.micro_batch if self.drop_last else -(-packs // self.micro_batch)

    def steps(self, packs: int) -> int:
        """Steps that `packs` packs make; the last one may have fewer micro-batches."""
        return -(-self.micro_steps(packs) // self.accumulation)


@dataclass(frozen=True)
class Position:
    """What was consumed: all packs of the epochs before `epoch`, and `packs` of it."""

    epoch: int = 0
    packs: int = 0
    step: int = 0
    """Optimizer steps taken."""
    global_batch: int | None = None
    """Packs of a step when it was saved."""
    order: Mapping[str, Any] = field(default_factory=dict)
    """`EpochOrder.fingerprint` of the plan that it counts in."""

    def save(self, folder: Path | str) -> None:
        """Write it into a checkpoint."""
        write_json(Path(folder) / FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path | str) -> Position:
        """Read it from a checkpoint. Raises ValueError where it is not there or damaged."""
        path = Path(folder) / FILE
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}), so nobody knows which samples the run has seen; resume from another "
                "checkpoint, or start a new run with model_name_or_path on this one"
            ) from error

    def check(self, order: EpochOrder) -> None:
        """Raises ValueError where, in mid-epoch, the plan has become another one: samples would be lost or seen twice.
        At the start of an epoch another plan is taken, with a warning."""
        if self.packs > (packs := order.num_packs(self.epoch)):
            raise ValueError(
                f"the checkpoint stands {self.packs} samples or packs into epoch {self.epoch}, and the data have "
                f"{packs}: go on with the same data, exclude list, max_length, packing and seed, or choose another "
                "checkpoint"
            )
        now = order.fingerprint()
        changed = [key for key in sorted({*now, *self.order}) if now.get(key) != self.order.get(key)]
        if not changed or not self.order:
            return
        facts = "; ".join(f"{key}: {self.order.get(key)} then, {now.get(key)} now" for key in changed)
        if self.packs:
            raise ValueError(
                f"the checkpoint stands {self.packs} samples or packs into epoch {self.epoch}, and the order of the "
                f"data has changed since ({facts}): go on with the same data, exclude list, max_length, packing and "
                "seed, or start a new run with model_name_or_path on the checkpoint"
            )
        logger.warning("epoch %d follows another order of the data than those before it (%s)", self.epoch, facts)


@dataclass(frozen=True)
class EpochSegment:
    """The steps of one epoch that are still to be done."""

    epoch: int
    start: int
    """Position in packs at which it begins."""
    end: int
    """Position at which it ends: that of the epoch, but where the run ends before, or packs that do not fill a batch
    are left out."""
    packs: int
    """Packs of the whole epoch."""
    first_step: int
    """Optimizer steps taken before it."""
    micro_steps: int
    steps: int


class StepSchedule:
    """The steps of a run from a position on."""

    def __init__(
        self, order: EpochOrder, split: Split, start: Position, *, epochs: float, max_steps: int | None = None
    ) -> None:
        """`epochs` to train in all, or `max_steps` optimizer steps in all."""
        self.split, self.start = split, start
        self._order = order.fingerprint()
        self.parts: dict[int, EpochSegment] = {}
        epoch, done = start.epoch, start.step
        while done < max_steps if max_steps else epoch < epochs:
            packs = order.num_packs(epoch)
            end = packs if max_steps else math.ceil(packs * min(1.0, epochs - epoch))
            begin = start.packs if epoch == start.epoch else 0
            left = max(0, end - begin)
            if steps := split.steps(left):
                micro_steps = split.micro_steps(left)
                end = min(end, begin + micro_steps * split.micro_batch)
                self.parts[epoch] = EpochSegment(epoch, begin, end, packs, done, micro_steps, steps)
            elif begin == 0:
                raise ValueError(
                    f"epoch {epoch} has {packs} packs, less than a batch of all ranks; use smaller batches"
                )
            done, epoch = done + steps, epoch + 1
        self.epochs = range(min(self.parts, default=start.epoch), max(self.parts, default=start.epoch - 1) + 1)
        self.max_steps = max_steps or done

    def position(self, step: int) -> Position:
        """Where the data stands after optimizer step `step`."""
        found = self.start
        for part in self.parts.values():
            if step <= part.first_step and part.epoch != self.start.epoch:
                break
            packs = min(part.end, part.start + (step - part.first_step) * self.split.global_batch)
            found = Position(part.epoch, packs, step)
            if not self.split.micro_steps(part.packs - packs):  # Nothing of the epoch is left.
                found = Position(part.epoch + 1, 0, step)
        return Position(found.epoch, found.packs, step, self.split.global_batch, self._order)

    def progress(self, step: int) -> float:
        """Epochs after optimizer step `step`, as a fraction."""
        position = self.position(step)
        part = self.parts.get(position.epoch)
        return position.epoch + (position.packs / part.packs if part else 0.0)

    def say_changes(self) -> None:
        """Warn where the global batch is another one than before the position."""
        before, now = self.start.global_batch, self.split.global_batch
        if before in (None, now):
            return
        logger.warning(
            "the global batch was %d and is %d: epoch %d goes on after %d samples or packs, none twice and none lost. "
            "The run ends at step %d, and the schedules of learning rate and keep ratio are those of so many steps",
            *(before, now, self.start.epoch, self.start.packs, self.max_steps),
        )
