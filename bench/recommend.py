"""How many histories per second does a recommender serve, against one padded batch with all logits in memory?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench import harness
from irecgan_ext.models import Agent
from irecgan_ext.serving import Recommender
from irecgan_ext.serving.timing import obvious
from irecgan_ext.types import BOS, PAD

SIZES = [(512, 64, 50), (512, 64, 40_000), (512, 512, 40_000)]  # B, H, C
QUICK_SIZES = [(16, 8, 1_000)]
LENGTHS = (2, 40)  # clicks of a session in the paper's log
K = 10


def run(threads: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """Rows of results: per size, greedy and sampled, and number of threads, the recommender and PyTorch."""
    rows = []
    for count, width, items in QUICK_SIZES if quick else SIZES:
        torch.manual_seed(1)
        recommender = Recommender(Agent(items, 50, width, 1))
        # Most sessions are short, as in a log: the mean length is about 5.
        lengths = torch.empty(count).geometric_(1 / 4).long() + 1
        lengths.clamp_(*LENGTHS)
        clicks = [torch.randint(items, (int(n),)) for n in lengths]
        histories = [torch.cat([torch.tensor([BOS]), row]) for row in clicks]
        exclude = torch.nn.utils.rnn.pad_sequence(clicks, batch_first=True, padding_value=PAD)
        check(recommender, histories, exclude)
        for number in threads:
            with harness.thread_count(number):
                for sample in (False, True):
                    rows += _measure(recommender, histories, exclude, sample, number, quick)
    return rows


def check(recommender: Recommender, histories: Sequence[Tensor], exclude: Tensor) -> None:
    """Raise AssertionError unless both ways give the same greedy lists, up to near-ties, and no draw is excluded."""
    ours = recommender.recommend(recommender.replay(histories), K, exclude=exclude).items
    theirs = obvious(recommender.agent, histories, K, exclude, sample=False)
    assert float((ours == theirs).double().mean()) > 0.999, "the two ways recommend different items"
    for drawn in (
        recommender.sample(recommender.replay(histories), K, exclude=exclude).items,
        obvious(recommender.agent, histories, K, exclude, sample=True),
    ):
        assert not bool((drawn[:, :, None] == exclude[:, None]).any()), "an excluded item is recommended"


def _measure(
    recommender: Recommender, histories: Sequence[Tensor], exclude: Tensor, sample: bool, threads: int, quick: bool
) -> list[dict[str, Any]]:
    def serve() -> Tensor:
        state = recommender.replay(histories)
        if sample:
            return recommender.sample(state, K, exclude=exclude).items
        return recommender.recommend(state, K, exclude=exclude).items

    calls: dict[str, harness.Work] = {
        "recommender": serve,
        "PyTorch: padded batch, all logits, topk": lambda: obvious(
            recommender.agent, histories, K, exclude, sample=sample
        ),
    }
    measured = harness.compare(calls, seconds=0.1 if quick else 3)
    count, width, items = len(histories), recommender.agent.encoder.rnn.hidden_size, recommender.items
    return [
        {
            "histories, H, C": f"{count:,}, {width:,}, {items:,}",
            "lists": "sampled" if sample else "greedy",
            "threads": threads,
            "what": name,
            "ms (quartiles)": m.ms,
            "time / native (quartiles)": m.ratio,
            "histories/s": round(count / m.ms.median * 1e3),
            "peak extra MB": None if m.extra_mb is None else round(m.extra_mb, 1),
            "rounds": m.rounds,
        }
        for name, m in measured.items()
    ]
