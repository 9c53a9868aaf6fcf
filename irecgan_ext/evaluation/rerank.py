"""Reranking the lists of a real log (section 7.2, Table 1): how high does a model put the item that was clicked?

One item of each list is relevant, the one clicked. P@1 and P@10 are, as in the paper, the share of steps on which it is among
the first 1 or 10: a precision that is 1 for a hit (so it equals the success rate, and the recall). They are given twice: over
every step, and over the steps whose list is longer than 10, on which P@10 is not 1 by itself (the authors' convention).
Items that a model scores alike are in random order, and what is reported is the mean over all such orders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from irecgan_ext.models import Agent, UserModel
from irecgan_ext.models.ragged import by_width
from irecgan_ext.packed import PackedSessions
from irecgan_ext.types import PAD, Trajectories

DEPTH = 10
BATCH = 256  # sessions scored at a time
BASELINES = {"position": "logged position", "popularity": "popularity", "chance": "chance"}
COLUMNS = ("p@1", "p@10", "mrr", "ndcg@10")

Results = dict[str, Any]


@dataclass(frozen=True)
class Ranks:
    """Where a ranking puts the clicked items. S steps.

    Attributes:
        above: [S] int64, items of the list that are scored higher than the clicked one.
        tied: [S] int64, items scored alike, the clicked one included.
        width: [S] int64, items of the list.
    """

    above: Tensor
    tied: Tensor
    width: Tensor

    def mean(self, gain: Tensor) -> Tensor:
        """[S] float64: mean of `gain` [R + 1] (by rank 1..R, at 0 nothing) over the ranks that ties leave open."""
        total = gain.double().cumsum(0)
        return (total[self.above + self.tied] - total[self.above]) / self.tied


def rank_clicks(scores: Tensor, slates: Tensor, clicks: Tensor) -> Ranks:
    """Ranks of clicked items.

    Args:
        scores: [S, K] float. slates: [S, K] int64, filled with PAD. clicks: [S] int64, an item of the slate.
    """
    shown = slates != PAD
    own = scores.gather(1, (slates == clicks[:, None]).long().argmax(1, keepdim=True))
    above = ((scores > own) & shown).sum(1)
    return Ranks(above, ((scores == own) & shown).sum(1), shown.sum(1))


def metrics(ranks: Ranks) -> Results:
    """P@1, P@10, MRR and NDCG@10 over every step, and under `longer` the first two where the list is longer than 10."""
    rank = torch.arange(int(ranks.width.max()) + 1, dtype=torch.float64)
    gains = {
        "p@1": rank == 1,
        "p@10": (rank >= 1) & (rank <= DEPTH),
        "mrr": torch.where(rank > 0, 1 / rank.clamp(min=1), 0.0),
        "ndcg@10": torch.where((rank >= 1) & (rank <= DEPTH), 1 / (rank + 1).log2(), 0.0).nan_to_num(),
    }
    values = {name: ranks.mean(gain) for name, gain in gains.items()}
    longer = ranks.width > DEPTH
    kept = {name: values[name][longer].mean().item() if bool(longer.any()) else None for name in ("p@1", "p@10")}
    return {**{name: value.mean().item() for name, value in values.items()}, "longer": kept}


def score_lists(model: UserModel | Agent, states: Tensor, slates: Tensor) -> Tensor:
    """[S, K] scores of each list's items: Eq (1)'s logits of a user model, Eq (4)'s of an agent; meaningless for PAD.

    Args:
        states: [S, H]. slates: [S, K] int64.
    """
    if isinstance(model, UserModel):
        return model.click_logits(states, slates)[:, :-1]
    items = slates.clamp(min=0)
    weights = functional.embedding(items, model.head.weight)
    return (weights @ states[..., None])[..., 0] + model.head.bias[items]


@torch.no_grad()
def rank_model(model: UserModel | Agent, log: PackedSessions) -> Ranks:
    """How `model`, which has seen the clicks before, ranks each logged list; in the order of the log's clicked steps."""
    model.eval()
    device = model.encoder.embedding.weight.device
    parts = [_rank_batch(model, log.select(i).to(device)) for i in torch.arange(len(log)).split(BATCH)]
    above, tied, width = (torch.cat(x).cpu() for x in zip(*((p.above, p.tied, p.width) for p in parts)))
    return Ranks(above, tied, width)


def _rank_batch(model: UserModel | Agent, batch: Trajectories) -> Ranks:
    clicked = batch.click_mask()
    states = model.encoder.at_steps(batch)[clicked[batch.step_mask()]]
    slates, clicks = batch.slates[clicked], batch.clicks[clicked]

    def columns(rows: Tensor, lists: Tensor) -> Tensor:
        ranks = rank_clicks(score_lists(model, states[rows], lists), lists, clicks[rows])
        return torch.stack([ranks.above, ranks.tied, ranks.width], 1)

    return Ranks(*by_width(columns, slates).unbind(1))


def rank_baselines(
    train: PackedSessions, test: PackedSessions, positions: Tensor | None, items: int
) -> dict[str, Ranks]:
    """The rows that need no learning: the logged order, clicks in the training sessions, and a random order.

    Args:
        positions: [S] int64, places of the clicks in the lists as they were shown; None where the log does not know them.
        items: C.
    """
    clicked = test.click_mask()
    width = test.widths[clicked]
    rows = {"chance": Ranks(torch.zeros_like(width), width, width)}
    if positions is not None:
        rows = {"position": Ranks(positions[clicked], torch.ones_like(width), width), **rows}
    counts = torch.bincount(train.clicks[train.click_mask()], minlength=items)
    owner = torch.repeat_interleave(test.widths)
    scores = counts[test.items.long()]
    own = counts[test.clicks.clamp(min=0)][owner]

    def count(which: Tensor) -> Tensor:
        return torch.zeros_like(test.widths).index_add(0, owner, which.long())[clicked]

    return {"popularity": Ranks(count(scores > own), count(scores == own), width), **rows}


def rerank(
    models: Mapping[str, UserModel | Agent],
    train: PackedSessions,
    test: PackedSessions,
    positions: Tensor | None,
    items: int,
) -> Results:
    """Metrics of every model and baseline on the clicked steps of `test`.

    Args:
        models: by the name of their row.
        train: what popularity is counted in.
        test, positions, items: see `rank_baselines`.

    Returns:
        {"steps", "longer_steps" (lists longer than 10), "methods": {name: {"p@1", "p@10", "mrr", "ndcg@10",
        "longer": {"p@1", "p@10"}}}}; shares of 1, null where no list is longer than 10.
    """
    ranks = rank_baselines(train, test, positions, items)
    ranks |= {name: rank_model(model, test) for name, model in models.items()}
    width = test.widths[test.click_mask()]
    return {
        "steps": len(width),
        "longer_steps": int((width > DEPTH).sum()),
        "methods": {name: metrics(r) for name, r in ranks.items()},
    }


def rerank_table(results: Results, titles: Mapping[str, str]) -> str:
    """The results as text, in percent."""
    titles = {**BASELINES, **titles}
    every = f"every step ({results['steps']:,})"
    longer = f"lists longer than {DEPTH} ({results['longer_steps']:,})"
    lines = [
        f"{'rerank, %':18}{every:^36}{longer:^30}".rstrip(),
        f"{'method':18}{'P@1':>9}{'P@10':>9}{'MRR':>9}{'NDCG@10':>9}{'P@1':>15}{'P@10':>9}",
    ]
    for name, row in results["methods"].items():
        values = [row[column] for column in COLUMNS]
        text = "".join(f"{100 * value:9.2f}" for value in values)
        if row["longer"]["p@1"] is not None:
            text += f"{100 * row['longer']['p@1']:15.2f}{100 * row['longer']['p@10']:9.2f}"
        lines.append(f"{titles.get(name, name):18}{text}")
    return "\n".join(lines)
