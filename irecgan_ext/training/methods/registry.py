"""What can be trained, and what each run leaves for evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from irecgan_ext.training.adversarial import train_irecgan
from irecgan_ext.training.config import MethodName
from irecgan_ext.training.methods.actor_critic import train_ac
from irecgan_ext.training.methods.generated import train_acu, train_pgu
from irecgan_ext.training.methods.importance import train_pgis
from irecgan_ext.training.methods.logged import train_lstm, train_pg
from irecgan_ext.training.methods.online import (
    train_irecgan_online,
    train_lstm_offline,
    train_pg_online,
    train_pg_online_offline,
)
from irecgan_ext.training.run import Run


@dataclass(frozen=True)
class Kept:
    """A model that a run leaves.

    Attributes:
        part: "user", which recommends its most clickable items, or "agent".
        snapshot: name of the run's snapshot that holds it; None for the final model.
    """

    part: Literal["user", "agent"]
    snapshot: str | None = None


@dataclass(frozen=True)
class Method:
    """One method of the paper.

    Attributes:
        title: name in tables.
        train: takes a fresh or resumed run to its end. The final models are those of `run.average`.
        policies: what the run leaves, by the name of its row in the results; the method's own name is among them.
        online: learns in turns with the simulator, not from the log.
    """

    title: str
    train: Callable[[Run], None]
    policies: dict[str, Kept]
    online: bool = False


_LSTM, _PG, _AC = {"lstm": Kept("user", "user")}, {"pg": Kept("agent", "agent")}, {"ac": Kept("agent", "ac")}
_IRECGAN = {**_LSTM, **_PG, "lstmd": Kept("user"), "irecgan": Kept("agent")}

METHODS: dict[MethodName, Method] = {
    "lstm": Method("LSTM", train_lstm, _LSTM),
    "pg": Method("PG", train_pg, _PG),
    "lstmd": Method("LSTMD", train_irecgan, _IRECGAN),
    "irecgan": Method("IRecGAN", train_irecgan, _IRECGAN),
    "pgis": Method("PGIS", train_pgis, {"pgis": Kept("agent")}),
    "ac": Method("AC", train_ac, _AC),
    "pgu": Method("PGU", train_pgu, {**_LSTM, **_PG, "pgu": Kept("agent")}),
    "acu": Method("ACU", train_acu, {**_LSTM, **_AC, "acu": Kept("agent")}),
    "pg-online": Method("PG-online", train_pg_online, {"pg-online": Kept("agent")}, online=True),
    "pg-online-offline": Method(
        "PG-online&offline", train_pg_online_offline, {"pg-online-offline": Kept("agent")}, online=True
    ),
    "lstm-offline": Method("LSTM-offline", train_lstm_offline, {"lstm-offline": Kept("user")}, online=True),
    "irecgan-online": Method("IRecGAN online", train_irecgan_online, {"irecgan-online": Kept("agent")}, online=True),
}
TITLES: dict[str, str] = {name: method.title for name, method in METHODS.items()}
