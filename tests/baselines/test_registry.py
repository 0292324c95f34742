"""Policies by name, and one's own among them."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from cambrian_gaze.attention.policy.policy import VisiblePolicy
from cambrian_gaze.baselines.registry import POLICIES, make_policy, options_of, register_policy


@pytest.fixture(autouse=True)
def _as_before():
    before = dict(POLICIES)
    yield
    POLICIES.clear()
    POLICIES.update(before)


@dataclass(frozen=True)
class Mine(VisiblePolicy):
    name: ClassVar[str] = "mine"
    budget: int


def test_a_registered_policy_is_made_by_name():
    assert register_policy(Mine) is register_policy(Mine) is POLICIES["mine"]
    policy = make_policy("mine", {"budget": 8})
    assert isinstance(policy, Mine) and options_of(policy) == {"name": "mine", "budget": 8}
    with pytest.raises(ValueError, match="policy 'mine' needs budget"):
        make_policy("mine")


def test_what_cannot_be_registered_is_refused():
    class Bare(VisiblePolicy):
        name: ClassVar[str] = "bare"
        budget: int = 3

    @dataclass(frozen=True)
    class Nameless(VisiblePolicy):
        budget: int

    @dataclass(frozen=True)
    class Taken(VisiblePolicy):
        name: ClassVar[str] = "snapkv"

    for policy, message in (
        (Bare, "put @dataclass"),
        (Nameless, "needs a name of its own.*there is none"),
        (Taken, "'snapkv' is taken"),
        (dict, "no class under VisiblePolicy"),
        (Mine(3), "no class under VisiblePolicy"),
    ):
        with pytest.raises(ValueError, match=message):
            register_policy(policy)
    assert not {"bare", "mine"} & set(POLICIES)
