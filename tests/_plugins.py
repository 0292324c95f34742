"""A plugin as a user would write one: a descriptor and an attention backend, known to nobody else."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

SOURCE = """
from cambrian_gaze.attention import Backend, register_backend
from cambrian_gaze.attention.masked import MaskedAttention
from cambrian_gaze.gaze.descriptors import RegionDescriptor, reduce_regions, register_descriptor


class Centre(RegionDescriptor):
    name = "plugin_centre"
    is_product = True

    def describe(self, keys, region, num_regions):
        low, high = reduce_regions(keys, region, num_regions, "amin", "amax")
        return (low + high) / 2

    def score(self, q, descriptors):
        return q @ descriptors.unsqueeze(2).transpose(-1, -2)

    def twin_describe(self, keys):
        return ((keys.amin(0) + keys.amax(0)) / 2,)

    def twin_score(self, q, kept, scaling):
        return (q @ kept[0]).item()


register_descriptor(Centre())
register_backend(Backend("plugin_masked", MaskedAttention.of))
"""
GAZE = {"descriptor": "plugin_centre", "backend": "plugin_masked"}


def write_plugin(path: Path, source: str = SOURCE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    return path


@contextlib.contextmanager
def forgotten() -> Iterator[None]:
    """What the block loads is unknown again after it."""
    from cambrian_gaze import plugins
    from cambrian_gaze.attention.registry import BACKENDS
    from cambrian_gaze.baselines.registry import POLICIES
    from cambrian_gaze.evaluation.benchmarks import BENCHMARKS
    from cambrian_gaze.gaze.descriptors import DESCRIPTORS
    from cambrian_gaze.models.tower.registry import _FAMILIES

    tables = (plugins._loaded, plugins._owners, plugins._recorded)
    tables = (*tables, BACKENDS, POLICIES, BENCHMARKS, DESCRIPTORS, _FAMILIES)
    kept = [(table, dict(table)) for table in tables]
    try:
        yield
    finally:
        for table, before in kept:
            table.clear()
            table.update(before)
