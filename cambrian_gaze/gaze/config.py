"""`GazeConfig`: every decision of the method as a named field. Region size, K and |C| live here and nowhere else."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from cambrian_gaze.gaze.descriptors import descriptor_named
from cambrian_gaze.gaze.schedule import TopKSchedule

HeadGranularity = Literal["q_head", "kv_group"]
DescriptorKeys = Literal["post_rope", "pre_rope"]
VisualQueries = Literal["causal", "unit", "gaze"]

BUDGET_FIELDS = ("top_k", "keep_ratio", "kv_budget")


@dataclass(frozen=True)
class RegionBudget:
    """Size of a gaze region and how many of them a query may look at (paper, section 3.2)."""

    region_size: tuple[int, int, int] = (1, 6, 6)
    """r_t × r_h × r_w in visual tokens after the projector; m is their product."""

    top_k: int | None = None
    """K: regions per query, head and layer."""

    keep_ratio: float | None = None
    """Share of the regions offered to the query that it keeps: ceil(ratio · R), at least 1."""

    kv_budget: int | None = None
    """Visual tokens per query, context tokens not counted: K = max(1, floor(budget / m))."""

    def __post_init__(self) -> None:
        size = tuple(self.region_size) if isinstance(self.region_size, list | tuple) else ()
        if len(size) != 3 or any(not _is_int(r) or r < 1 for r in size):
            raise ValueError(f"region_size must be three positive integers (r_t, r_h, r_w), got {self.region_size!r}")
        object.__setattr__(self, "region_size", size)
        given = [name for name in BUDGET_FIELDS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give exactly one of top_k, keep_ratio and kv_budget, got {', '.join(given)}")
        if self.top_k is not None and (not _is_int(self.top_k) or self.top_k < 1):
            raise ValueError(f"top_k must be an integer of at least 1, got {self.top_k!r}; keep_ratio=1.0 is dense")
        if self.kv_budget is not None and (not _is_int(self.kv_budget) or self.kv_budget < 1):
            raise ValueError(f"kv_budget must be an integer of at least 1 visual token, got {self.kv_budget!r}")
        if self.keep_ratio is not None and (not _is_number(self.keep_ratio) or not 0.0 < self.keep_ratio <= 1.0):
            raise ValueError(f"keep_ratio must be in (0, 1], got {self.keep_ratio!r}")

    @property
    def tokens_per_region(self) -> int:
        """m = r_h · r_w · r_t."""
        r_t, r_h, r_w = self.region_size
        return r_t * r_h * r_w

    @property
    def is_dense(self) -> bool:
        """True when every region offered is kept, whatever their number."""
        return self.top_k is None and self.kv_budget is None and (self.keep_ratio is None or self.keep_ratio == 1.0)

    def with_budget(self, **budget: Any) -> RegionBudget:
        """The same regions under another budget: exactly one of `top_k`, `keep_ratio`, `kv_budget`."""
        return dataclasses.replace(self, **{name: budget.get(name) for name in BUDGET_FIELDS})

    def override(self, values: dict[str, Any], where: str) -> RegionBudget:
        """These regions and this budget, but for the fields in `values`, which `where` holds."""
        values = dict(_known(RegionBudget, values, where))
        if any(values.get(name) is not None for name in BUDGET_FIELDS):
            values = dict.fromkeys(BUDGET_FIELDS) | values
        return dataclasses.replace(self, **values)


@dataclass(frozen=True)
class GazeConfig:
    """How text queries look at visual regions. The defaults are the paper's, or stated in `docs/method.md`."""

    image: RegionBudget = field(default_factory=RegionBudget)
    """Regions and budget of images."""

    video: RegionBudget | None = None
    """Regions and budget of videos; None: as for images, in one pool. Where it is given and a sample mixes both,
    a query runs one TopK over the image regions and one over the video regions, each with its own budget."""

    num_context_tokens: int = 4
    """|C| learned context tokens after each unit (section 3.3). Dense baselines take 0."""

    context_visible: bool = True
    """False hides the context tokens from text queries at run time (ablation); they stay in the sequence."""

    head_granularity: HeadGranularity = "q_head"
    """`q_head`: each query head selects by itself (the paper). `kv_group`: scores averaged over the query heads that
    share a KV head, so that they read the same regions."""

    descriptor: str = "mean"
    """`mean` of a region's keys (the paper), `max`, `minmax` (upper bound of q·k over the box of the keys), or
    `oracle` (the region's true attention mass; costs dense attention), or a name given to `register_descriptor`."""

    descriptor_keys: DescriptorKeys = "post_rope"
    """Keys as cached, after RoPE and q/k-norm, or with the rotation undone (ablation)."""

    visual_queries: VisualQueries = "causal"
    """What visual queries see of visual tokens: all earlier ones, their own unit only, or their own unit and routed
    regions of earlier units."""

    visual_sees_context: bool = True
    """Whether visual queries see the context keys of earlier units."""

    route_prompt: bool = True
    """False leaves the prompt's queries dense and routes only the answer's."""

    dense_layers: tuple[int, ...] = ()
    """Decoder layers that do not route."""

    min_keep_ratio: float = 0.0
    """Lower bound on the share of offered regions kept: K_t = max(K, ceil(min_keep_ratio · R)). The progressive
    schedule sets it at each step."""

    backend: str = "auto"
    """Attention backend by name; `auto` picks one and logs its pick."""

    schedule: TopKSchedule = field(default_factory=TopKSchedule)
    """Progressive TopK in training (section 3.2, "Towards stable training")."""

    def __post_init__(self) -> None:
        for name in ("image", "video"):
            value = getattr(self, name)
            if isinstance(value, dict):
                object.__setattr__(self, name, RegionBudget(**_known(RegionBudget, value, f"gaze.{name}")))
            elif not isinstance(value, RegionBudget) and (name == "image" or value is not None):
                raise ValueError(f"{name} must hold a region_size and a budget, got {value!r}")
        if isinstance(self.schedule, dict):
            known = _known(TopKSchedule, self.schedule, "gaze.schedule")
            object.__setattr__(self, "schedule", TopKSchedule(**known))
        layers = self.dense_layers
        object.__setattr__(self, "dense_layers", tuple(layers) if isinstance(layers, list | tuple) else (layers,))
        if not _is_int(self.num_context_tokens) or self.num_context_tokens < 0:
            raise ValueError(f"num_context_tokens must be an integer of at least 0, got {self.num_context_tokens!r}")
        if not _is_number(self.min_keep_ratio) or not 0.0 <= self.min_keep_ratio <= 1.0:
            raise ValueError(f"min_keep_ratio must be in [0, 1], got {self.min_keep_ratio!r}")
        if any(not _is_int(layer) or layer < 0 for layer in self.dense_layers):
            raise ValueError(f"dense_layers must be a list of layer numbers from 0, got {layers!r}")
        for name in ("context_visible", "visual_sees_context", "route_prompt"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        hints = get_type_hints(GazeConfig)
        for name in ("head_granularity", "descriptor_keys", "visual_queries"):
            if getattr(self, name) not in (choices := get_args(hints[name])):
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        descriptor_named(self.descriptor)

    def budget(self, modality: int) -> RegionBudget:
        """The regions and budget of a modality (`layout.IMAGE` or `layout.VIDEO`)."""
        return self.video if modality == 2 and self.video is not None else self.image

    @property
    def is_dense(self) -> bool:
        """True when routing keeps every region, so that attention is dense over the visual tokens."""
        budgets = [self.image] if self.video is None else [self.image, self.video]
        return self.min_keep_ratio == 1.0 or all(b.is_dense for b in budgets)

    def routes(self, layer: int) -> bool:
        """Whether text queries route in this decoder layer."""
        return not self.is_dense and layer not in self.dense_layers

    def check_layers(self, layers: int) -> GazeConfig:
        """This configuration, for a decoder of so many layers. Raises ValueError where `dense_layers` names others."""
        if beyond := [layer for layer in self.dense_layers if layer >= layers]:
            raise ValueError(
                f"dense_layers names {', '.join(map(str, beyond))}, but the decoder has {layers} layers, numbered 0 to "
                f"{layers - 1}"
            )
        return self

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GazeConfig:
        """Inverse of `to_dict`. Raises ValueError on an unknown key and names the nearest one."""
        return cls(**_known(cls, values, "gaze"))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        values = dataclasses.asdict(self)
        values["dense_layers"] = list(self.dense_layers)
        for name in ("image", "video"):
            if values[name] is not None:
                values[name]["region_size"] = list(values[name]["region_size"])
        return values

    def override(self, **options: Any) -> GazeConfig:
        """This configuration under run-time options.

        Budgets (`top_k`, `keep_ratio`, `kv_budget`; exactly one) apply to both modalities. `image` and `video` may
        hold some of their fields: the region size stays where it is not given, and so does the budget. What the
        weights or the prompt were built with (region sizes apart, `num_context_tokens`) cannot change here.

        Raises: ValueError on an unknown option, naming the nearest one, and on one that has no effect here.
        """
        if "schedule" in options and options["schedule"] not in (self.schedule, dataclasses.asdict(self.schedule)):
            raise ValueError("schedule belongs to training; at run time give a budget, or min_keep_ratio")
        budget = {name: options.pop(name) for name in BUDGET_FIELDS if options.get(name) is not None}
        if "num_context_tokens" in options and options["num_context_tokens"] != self.num_context_tokens:
            raise ValueError(
                f"num_context_tokens is {self.num_context_tokens} in this checkpoint and cannot change at run time; "
                "context_visible=False hides the context tokens"
            )
        options = _known(GazeConfig, options, "gaze", extra=BUDGET_FIELDS)
        for name in ("image", "video"):
            if isinstance(options.get(name), dict):
                if budget and any(options[name].get(field) is not None for field in BUDGET_FIELDS):
                    raise ValueError(f"give exactly one budget: {next(iter(budget))}, or that of {name}")
                options[name] = (getattr(self, name) or self.image).override(options[name], f"gaze.{name}")
        changed = dataclasses.replace(self, **options)
        if not budget:
            return changed
        video = None if changed.video is None else changed.video.with_budget(**budget)
        return dataclasses.replace(changed, image=changed.image.with_budget(**budget), video=video)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _known(cls: type, values: dict[str, Any], where: str, extra: tuple[str, ...] = ()) -> dict[str, Any]:
    """`values` less None-valued budget options, after a check that each key is a field of `cls`."""
    names = [f.name for f in dataclasses.fields(cls)] + list(extra)
    for key in values:
        if key not in names:
            nearest = difflib.get_close_matches(key, names, n=1, cutoff=0.4)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; known: {', '.join(names)}"
            raise ValueError(f"unknown option {key!r} in {where}{hint}")
    return {key: value for key, value in values.items() if key not in extra}
