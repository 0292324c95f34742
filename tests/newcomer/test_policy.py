"""An eviction policy of one's own: registered, it is chosen by name, and the budget that it promises is counted."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from cambrian_gaze import CambrianGazeProcessor
from cambrian_gaze.attention.policy.policy import VisiblePolicy
from cambrian_gaze.baselines.registry import POLICIES, make_policy, register_policy
from tests.models.conftest import ask, make_model, noise


@dataclass(frozen=True)
class Oldest(VisiblePolicy):
    """A toy: keeps the first visual tokens, whatever is asked."""

    name: ClassVar[str] = "oldest"
    budget: int

    def on_text(self, tokens):
        return tokens.retained & (tokens.retained.long().cumsum(1) <= self.budget)

    def retains(self, shown, layer, layers):
        return min(self.budget, shown.tokens)


@pytest.fixture
def toy():
    yield register_policy(Oldest)
    del POLICIES["oldest"]


def test_a_model_generates_under_it(toy):
    model, processor = make_model(), CambrianGazeProcessor.from_preset("tiny")
    inputs = processor.apply_chat_template(ask(noise(0), noise(1)), tokenize=True, add_generation_prompt=True)
    options = dict(max_new_tokens=4, min_new_tokens=4, do_sample=False, return_gaze=True)
    output = model.generate(**inputs, **options, policy=make_policy("oldest", {"budget": 8}))
    assert (output.retained == 8).all() and (output.gaze.attended_visual == 8).all()

    whole = model.generate(**inputs, **options, policy=make_policy("oldest", {"budget": 10_000}))
    assert (whole.retained == 128).all(), "more than there are: all are kept"


def test_an_option_that_is_wrong_is_said(toy):
    with pytest.raises(ValueError, match="policy 'oldest' has no option 'budgets'; did you mean 'budget'"):
        make_policy("oldest", {"budgets": 8})
