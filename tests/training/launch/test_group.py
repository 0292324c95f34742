"""Ranks on CPUs wait for each other no longer than `ddp_timeout`."""

from datetime import timedelta

import pytest

from cambrian_gaze.training.config import config
from cambrian_gaze.training.launch import group


def test_the_group_of_cpus_gets_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(group.dist, "init_process_group", lambda *args, **options: started.append((args, options)))
    group.start_cpu_group(None, 7)
    assert not started, "without a launcher there is no group"
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    group.start_cpu_group(None, 7)
    assert started == [(("gloo",), {"timeout": timedelta(seconds=7)})]


@pytest.mark.parametrize("name", ["hang_timeout", "grad_spike_factor", "max_bad_steps", "sample_steps", "probe_steps"])
def test_limits_are_not_negative(tmp_path, name: str) -> None:
    with pytest.raises(config.ConfigError, match=f"{name} must not be negative"):
        config.load([f"--output_dir={tmp_path}", f"--{name}=-1"])
