"""Remake golden/rollout.json: `PYTHONPATH=.:python_tests python python_tests/golden/rollout.py` from the repository root.

The file changes only with the sampling contract (random numbers, race, click) or with a model's equations.
"""

import json
from pathlib import Path

import torch

from irecgan_ext import ops
from irecgan_ext.models import Agent, Discriminator, UserModel
from irecgan_ext.types import BOS

FILE = Path(__file__).with_suffix(".json")
ITEMS, ROWS = 70, 6


def parameters(model: torch.nn.Module) -> list[torch.Tensor]:
    """The model's rollout parameters, filled by a formula instead of a generator, whose stream may change."""
    filled = []
    for number, p in enumerate(model.rollout_parameters()):
        index = torch.arange(p.numel(), dtype=torch.float64).view(p.shape)
        filled.append((torch.sin(index * 1.7 + number) * 0.6).float())
    return filled


def play(impl: ops.Impl = "native") -> dict[str, list]:
    """Six sessions by LSTMs, with completions and binary rewards."""
    zeros = torch.zeros(ROWS, dtype=torch.int64)
    shape = ITEMS, 4, 5, 2, "lstm"
    models = UserModel(*shape, reward="binary"), Agent(*shape), Discriminator(*shape, reward="binary")
    out = ops.rollout(
        *(parameters(m) for m in models),
        *(m.encoder.initial_state(1) for m in models),
        zeros,
        zeros + BOS,
        zeros,
        torch.arange(ROWS) + 2**33,
        zeros.float(),
        cell="lstm",
        reward="binary",
        slate_size=3,
        completions=2,
        max_steps=4,
        seed=20_191_208,
        impl=impl,
    )
    return {name: value.tolist() for name, value in out._asdict().items()}


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in play().items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
