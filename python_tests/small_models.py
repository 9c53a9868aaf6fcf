"""Sizes of small models, and sessions that they are tried on."""

import torch

from irecgan_ext.types import BOS, END, PAD, Trajectories

ITEMS, EMBEDDING, HIDDEN, LAYERS = 11, 5, 7, 2
SIZES = (ITEMS, EMBEDDING, HIDDEN, LAYERS)
CELLS = ("gru", "lstm")


def sessions(binary: bool = False) -> Trajectories:
    """Three sessions of 3, 1 and 2 steps over 11 items; the last is censored, and starts from an item; some slates are short."""
    trajectories = Trajectories(
        start=torch.tensor([BOS, BOS, 6]),
        slates=torch.tensor(
            [
                [[0, 1, 2], [3, 4, 10], [5, 6, PAD]],
                [[7, PAD, PAD], [PAD, PAD, PAD], [PAD, PAD, PAD]],
                [[8, 9, 1], [2, 3, 0], [PAD, PAD, PAD]],
            ]
        ),
        clicks=torch.tensor([[1, 10, END], [END, PAD, PAD], [8, 0, PAD]]),
        rewards=torch.tensor([[1.0, 0.0 if binary else 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]),
        lengths=torch.tensor([3, 1, 2]),
        censored=torch.tensor([False, False, True]),
    )
    trajectories.validate(ITEMS)
    return trajectories
