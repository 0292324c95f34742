"""The ways in which a decoding step runs on a CPU."""

import pytest

from cambrian_gaze.attention.decode import native as decode_native


@pytest.fixture(params=["compiled", "plain torch"])
def way(request, monkeypatch):
    """How a step without gradients runs on a CPU."""
    if request.param == "plain torch":
        monkeypatch.setattr(decode_native, "takes", lambda grouped: False)
    elif decode_native.missing():
        pytest.skip(decode_native.missing())
    return request.param
