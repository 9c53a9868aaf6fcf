"""Rerank metrics, against an independent library and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from ragged_logs import ITEMS, write_prepared_by_hand

from irecgan_ext.data.packed_log import PreparedLog, read_prepared
from irecgan_ext.evaluation.rerank import (
    Ranks,
    metrics,
    rank_baselines,
    rank_clicks,
    rank_model,
    rerank,
    rerank_table,
    score_lists,
)
from irecgan_ext.models import Agent, UserModel
from irecgan_ext.types import PAD


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> PreparedLog:
    folder = tmp_path_factory.mktemp("rerank") / "data"
    write_prepared_by_hand(folder, sessions=(60, 3, 40))
    return read_prepared(folder)


def random_lists(steps: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores without ties, ragged slates of 1 to 30 items, clicks."""
    draw = torch.Generator().manual_seed(seed)
    widths = torch.randint(1, 31, (steps,), generator=draw)
    slates = torch.stack([torch.randperm(60, generator=draw)[:30] for _ in range(steps)])
    slates[torch.arange(30) >= widths[:, None]] = PAD
    place = (torch.rand(steps, generator=draw) * widths).long()
    scores = torch.stack([torch.randperm(30, generator=draw) for _ in range(steps)]).float()
    return scores, slates, slates.gather(1, place[:, None])[:, 0]


def test_metrics_agree_with_ir_measures() -> None:
    measures = pytest.importorskip("ir_measures", reason="ir-measures is not installed (extra test): no second opinion")
    scores, slates, clicks = random_lists(200, seed=0)
    qrels = [measures.Qrel(str(q), str(int(c)), 1) for q, c in enumerate(clicks)]
    run = [
        measures.ScoredDoc(str(q), str(int(item)), float(scores[q, k]))
        for q, row in enumerate(slates)
        for k, item in enumerate(row)
        if item != PAD
    ]
    wanted = {
        "p@1": measures.parse_measure("P@1"),
        "p@10": measures.parse_measure("Success@10"),
        "mrr": measures.parse_measure("RR"),
        "ndcg@10": measures.parse_measure("nDCG@10"),
    }
    expected = measures.calc_aggregate(list(wanted.values()), qrels, run)
    got = metrics(rank_clicks(scores, slates, clicks))
    for name, measure in wanted.items():
        assert got[name] == pytest.approx(expected[measure], abs=1e-12), name
    longer = {str(q) for q, row in enumerate(slates) if (row != PAD).sum() > 10}
    assert 0 < len(longer) < 200
    qrels, run = [q for q in qrels if q.query_id in longer], [r for r in run if r.query_id in longer]
    expected = measures.calc_aggregate(list(wanted.values()), qrels, run)
    for name in ("p@1", "p@10"):
        assert got["longer"][name] == pytest.approx(expected[wanted[name]], abs=1e-12), name


def test_ties_count_as_the_mean_over_their_orders() -> None:
    """Three of four items tie behind one: rank 2, 3 or 4."""
    scores, slates = torch.tensor([[5.0, 1.0, 1.0, 1.0, 9.0]]), torch.tensor([[8, 3, 4, 5, PAD]])
    got = metrics(rank_clicks(scores, slates, torch.tensor([4])))
    assert got["p@1"] == 0
    assert got["p@10"] == 1
    assert got["mrr"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)
    assert got["ndcg@10"] == pytest.approx(sum(1 / math.log2(1 + r) for r in (2, 3, 4)) / 3)
    assert got["longer"] == {"p@1": None, "p@10": None}
    first = metrics(Ranks(torch.tensor([0]), torch.tensor([20]), torch.tensor([20])))
    assert (first["p@1"], first["p@10"]) == (pytest.approx(1 / 20), pytest.approx(1 / 2))
    assert first["longer"] == {"p@1": pytest.approx(1 / 20), "p@10": pytest.approx(1 / 2)}


@pytest.mark.parametrize("kind", [UserModel, Agent])
def test_models_rank_by_their_scores_after_the_clicks_before(log: PreparedLog, kind: type) -> None:
    torch.manual_seed(0)
    model = kind(ITEMS, 5, 6, 1, dropout=0.5)
    sessions = log.test.sessions
    got = rank_model(model, sessions)
    at = 0
    for b in range(len(sessions)):
        one = sessions.select(torch.tensor([b]))
        states = model.encoder(one.inputs())[0]
        for t in range(int(one.lengths[0]) - 1):
            items = one.slates[0, t][one.slates[0, t] != PAD]
            scores = model.logits(states[t])[items] if kind is Agent else model.click_logits(states[t], items)[:-1]
            own = scores[items == one.clicks[0, t]]
            assert (got.above[at], got.width[at]) == ((scores > own).sum(), len(items))
            at += 1
    assert at == len(got.above) == len(got.tied)
    assert torch.equal(got.tied, torch.ones_like(got.tied))


def test_baselines(log: PreparedLog) -> None:
    train, test = log.train.sessions, log.test.sessions
    rows = rank_baselines(train, test, log.test.positions, ITEMS)
    assert list(rows) == ["popularity", "position", "chance"]
    clicked = test.clicks >= 0
    assert torch.equal(rows["position"].above, log.test.positions[clicked])
    counts = [int((train.clicks == item).sum()) for item in range(ITEMS)]
    begins = test.widths.cumsum(0) - test.widths
    for at, step in enumerate(clicked.nonzero()[:, 0].tolist()):
        own = counts[int(test.clicks[step])]
        shown = [counts[i] for i in test.items[begins[step] : begins[step] + test.widths[step]].tolist()]
        expected = (sum(c > own for c in shown), sum(c == own for c in shown), len(shown))
        found = rows["popularity"]
        assert (int(found.above[at]), int(found.tied[at]), int(found.width[at])) == expected
    assert list(rank_baselines(train, test, None, ITEMS)) == ["popularity", "chance"]


def test_score_lists_ignores_padding() -> None:
    torch.manual_seed(0)
    states, slates = torch.randn(3, 6), torch.tensor([[1, 4, PAD], [2, PAD, PAD], [5, 0, 3]])
    for model in (Agent(9, 4, 6, 1), UserModel(9, 4, 6, 1)):
        scores = score_lists(model, states, slates)
        assert scores.shape == (3, 3)
        assert bool(scores[slates != PAD].isfinite().all())


def test_table(log: PreparedLog) -> None:
    torch.manual_seed(0)
    results = rerank(
        {"pg": Agent(ITEMS, 4, 5, 1)}, log.train.sessions, log.test.sessions, log.test.positions, log.items
    )
    assert results["steps"] == int((log.test.sessions.clicks >= 0).sum())
    assert 0 < results["longer_steps"] < results["steps"]
    text = rerank_table(results, {"pg": "PG"}).splitlines()
    assert [line.split("  ")[0] for line in text[2:]] == ["popularity", "logged position", "chance", "PG"]
    last = [float(x) for x in text[-1].split()[1:]]
    row = results["methods"]["pg"]
    expected = [row["p@1"], row["p@10"], row["mrr"], row["ndcg@10"], row["longer"]["p@1"], row["longer"]["p@10"]]
    assert last == pytest.approx([100 * value for value in expected], abs=0.005)
