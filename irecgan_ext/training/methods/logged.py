"""Methods that learn from the log alone, one model each (section 7.1)."""

from __future__ import annotations

from irecgan_ext.training.pretrain import pretrain_agent, pretrain_user
from irecgan_ext.training.run import Run


def train_lstm(run: Run) -> None:
    """LSTM (section 7.1): the user model of Eq (1) to (3); it recommends its most clickable items."""
    pretrain_user(run)
    run.begin_average()


def train_pg(run: Run) -> None:
    """PG (section 7.1): the agent by the policy gradient of Eq (10) on the log."""
    pretrain_agent(run)
    run.begin_average()
