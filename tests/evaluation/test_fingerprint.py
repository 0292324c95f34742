"""Fingerprints change with any value, name or type, and with nothing else."""

import torch

from cambrian_gaze.evaluation.fingerprint import weights_fingerprint


def make(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))


def test_same_weights_same_fingerprint():
    assert weights_fingerprint(make()) == weights_fingerprint(make())


def test_every_change_shows():
    prints = {weights_fingerprint(make()), weights_fingerprint(make(1)), weights_fingerprint(make().bfloat16())}
    changed = make()
    with torch.no_grad():
        changed[1].bias[2] += 1e-6
    prints.add(weights_fingerprint(changed))
    prints.add(weights_fingerprint(torch.nn.Sequential(*make(), torch.nn.Identity(), torch.nn.Linear(1, 1))))
    assert len(prints) == 5
