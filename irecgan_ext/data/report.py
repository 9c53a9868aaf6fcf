"""What became of a raw log: numbers to compare with the paper's."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

SPLITS = ("train", "valid", "test")
# Section 7.2: sessions, mean length, share of recommendations that lead to a purchase.
PAPER = {"train": (65_284, 2.81, 0.0231), "valid": (1_718, 2.80, 0.0246), "test": (1_820, 2.77, 0.0245)}


@dataclass(frozen=True)
class SplitReport:
    """Totals of one split. A step is a click on a list; the lists on which users left are not counted."""

    sessions: int
    steps: int
    list_items: int
    rewards: float


@dataclass(frozen=True)
class Report:
    """Attributes:
    splits: totals by split.
    items: C.
    rows_read: rows of all raw files.
    dropped: counts by rule.
    reward: what a reward stands for; None where the log has none.
    ends: sessions that show their user leaving.
    """

    splits: dict[str, SplitReport]
    items: int
    rows_read: int
    dropped: Counter[str]
    reward: str | None
    ends: int

    def content(self) -> dict[str, Any]:
        """The content of `report.json`. Means are over all splits; purchase_share is null where the log has no rewards."""
        sessions = sum(split.sessions for split in self.splits.values())
        steps = sum(split.steps for split in self.splits.values())
        rewards = sum(split.rewards for split in self.splits.values())
        return {
            "rows_read": self.rows_read,
            "sessions": {name: split.sessions for name, split in self.splits.items()},
            "steps": steps,
            "items": self.items,
            "mean_session_length": steps / sessions,
            "mean_list_length": sum(split.list_items for split in self.splits.values()) / steps,
            "purchase_share": None if self.reward is None else rewards / steps,
            "dropped": dict(self.dropped),
        }

    def json(self) -> bytes:
        return (json.dumps(self.content(), indent=2, allow_nan=False) + "\n").encode()

    def text(self) -> str:
        """A table of the splits with the paper's numbers below, where rewards are purchases, and what was dropped."""
        lines = [f"{self.rows_read:,} rows read, {self.items:,} items", ""]
        share = "" if self.reward is None else self.reward
        lines.append(f"{'':8}{'sessions':>10}{'steps':>10}{'steps/session':>15}{'items/list':>12}{share:>22}".rstrip())
        for name, split in self.splits.items():
            means = f"{split.steps / split.sessions:15.2f}{split.list_items / split.steps:12.1f}"
            earned = "" if self.reward is None else f"{split.rewards / split.steps:22.2%}"
            lines.append(f"{name:8}{split.sessions:10,}{split.steps:10,}{means}{earned}")
        if self.reward == "purchase":
            lines.append("the paper's:")
            for name, (sessions, length, bought) in PAPER.items():
                lines.append(f"{name:8}{sessions:10,}{'':10}{length:15.2f}{'':12}{bought:22.2%}")
        total = sum(split.sessions for split in self.splits.values())
        lines.append(f"\n{self.ends:,} of {total:,} sessions end with a list on which the user leaves (--end)")
        dropped = [f"  {count:12,}  {rule}" for rule, count in self.dropped.items() if count]
        return "\n".join([*lines, "dropped:", *(dropped or ["  nothing"])])
