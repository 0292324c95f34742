"""The families of towers by `model_type`: those of the package, and those that users add."""

from __future__ import annotations

from pathlib import Path

from transformers import CONFIG_MAPPING, PreTrainedConfig

from cambrian_gaze.models.tower.family import TowerFamily
from cambrian_gaze.models.tower.published import CLIP, DINOV2, SIGLIP
from cambrian_gaze.plugins import registers, remedy

_FAMILIES: dict[str, TowerFamily] = {family.model_type: family for family in (SIGLIP, CLIP, DINOV2)}
_TOLD_APART = {"siglip2": "; the NaFlex variant of SigLIP2 is another architecture"}


@registers("vision tower", by="model_type")
def register_tower(family: TowerFamily) -> None:
    """Make a family of towers known. One of the same `model_type` and title takes the place of the former.

    Raises: ValueError where its `model_type` is another family's, or unknown to transformers.
    """
    kind = family.model_type
    if kind in _FAMILIES and _FAMILIES[kind].title != family.title:
        raise ValueError(f"the vision tower {kind!r} is declared already, as {_FAMILIES[kind].title!r}")
    if kind not in CONFIG_MAPPING:
        raise ValueError(
            f"transformers knows no model type {kind!r}; make a tower of your own known by AutoConfig.register and "
            "AutoModel.register first"
        )
    _FAMILIES[kind] = family


def known_towers() -> str:
    """The known families as a list of words."""
    return ", ".join(f"{family.title} ({kind})" for kind, family in _FAMILIES.items())


def family_of(config: PreTrainedConfig | str, source: Path | str | None = None) -> TowerFamily:
    """The family of a tower's configuration or of its `model_type`.

    Raises: ValueError for what is no known tower, with those that are; of the folder or Hub id `source`, where given.
    """
    kind = config if isinstance(config, str) else config.model_type
    if kind in _FAMILIES:
        return _FAMILIES[kind]
    what = f"the vision tower is a {kind!r} model" if source is None else f"{source} is a {kind!r} model"
    raise ValueError(
        f"{what}, not a vision tower that is known here{_TOLD_APART.get(kind, '')}; known: {known_towers()}; "
        f"{remedy('vision tower', kind, 'models.tower.register_tower')}"
    )
