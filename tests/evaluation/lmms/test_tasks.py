"""The task files that lmms-eval reads: one for every benchmark and protocol."""

import pytest
import yaml

from cambrian_gaze.evaluation.benchmarks import BENCHMARKS, PROTOCOLS
from tests.evaluation.lmms._asked import NEEDS_LMMS, TASKS


class _Loader(yaml.SafeLoader):
    """Takes `!function NAME` as the name."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def test_every_benchmark_has_a_task():
    files = {path.stem: yaml.load(path.read_text(), _Loader) for path in TASKS.glob("*.yaml")}
    expected = {}
    for one in BENCHMARKS.values():
        for protocol in PROTOCOLS:
            name = f"cambrian_gaze_{one.name}{'' if protocol == 'cambrian' else '_official'}"
            values = {"benchmark": one.name, "protocol": protocol}
            reads = "cambrian_gaze.evaluation.lmms.tasks.BenchmarkTask"
            expected[name] = {"task": name, "class": reads, "metadata": values}
    assert files == expected


@NEEDS_LMMS
@pytest.mark.slow
def test_answers_that_outlive_the_weights_are_refused(data_root, monkeypatch):
    from types import SimpleNamespace

    from cambrian_gaze.evaluation.lmms.tasks import DATA_ROOT, BenchmarkTask

    monkeypatch.setenv(DATA_ROOT, str(data_root))
    task = BenchmarkTask(config=yaml.load((TASKS / "cambrian_gaze_mme.yaml").read_text(), _Loader))
    task.args = SimpleNamespace(use_cache="somewhere")
    with pytest.raises(ValueError, match="journal=FOLDER"):
        task.build_all_requests()
