"""The rollout in JAX: one `jit`, `lax.scan` over the cap, every session and completion a row of a fixed shape.

Shapes must be known to the compiler, so nothing is compacted: sessions that have ended are stepped on until the cap, and a
completion of each session's every prefix is stepped whether the session got that far or not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import device
from bench.peers.rollout.parts import TEMPERATURE, Played
from irecgan_ext.models import Agent, Discriminator, UserModel

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else most of a GPU's memory is kept from the others
try:
    import jax
    from jax import lax, nn
    from jax import numpy as jnp
except ImportError:  # an optional peer
    jax = None  # type: ignore[assignment]

TASKS = Path("/proc/self/task")


def unavailable() -> str | None:
    """Why this peer cannot run here; None if it can."""
    if jax is None:
        return "jax is not installed (pip install jax)"
    if not (hasattr(os, "sched_setaffinity") and TASKS.exists()):
        return "jax cannot be held to a number of threads on this system"
    if device.is_cuda() and jax.default_backend() != "gpu":
        return "jax has no GPU backend here"
    return None


class Scan:
    """The three models' weights for JAX, and the compiled rollout; compiled at the first call with its shapes."""

    def __init__(self, user: UserModel, agent: Agent, discriminator: Discriminator, slate_size: int) -> None:
        models = (user, agent, discriminator)
        self.weights = [_weights(model.encoder, head) for model, head in zip(models, _heads(*models))]
        self.play = jax.jit(
            partial(_rollout, user.encoder.cell, slate_size),
            static_argnames=("sessions", "max_steps", "completions"),
        )

    def rollout(self, *, sessions: int, max_steps: int, completions: int) -> Played:
        key = jax.random.key(int(torch.randint(2**31, ())))
        with _on_cores(torch.get_num_threads()):
            out = self.play(self.weights, key, sessions=sessions, max_steps=max_steps, completions=completions)
            out = jax.block_until_ready(out)
        slates, clicks, lengths, scores, q = (torch.from_dlpack(x).clone() for x in out)
        clicks = clicks.long()
        return Played(slates.long(), clicks, (clicks >= 0).float(), lengths.long(), scores, q)


def _heads(user: UserModel, agent: Agent, discriminator: Discriminator) -> tuple[Any, Any, Any]:
    return user.query, agent.head, discriminator.query


def _weights(encoder: Any, head: Any) -> dict[str, Any]:
    flat = [jnp.asarray(p.detach().cpu().numpy()) for p in encoder.rnn_parameters()]
    embedding, weight, bias = (
        jnp.asarray(p.detach().cpu().numpy()) for p in (encoder.embedding.weight, head.weight, head.bias)
    )
    layers = [flat[at : at + 4] for at in range(0, len(flat), 4)]
    return {"embedding": embedding, "layers": layers, "weight": weight, "bias": bias}


def _rollout(
    cell: str, slate_size: int, weights: Any, key: Any, *, sessions: int, max_steps: int, completions: int
) -> Any:
    """slates [R, W, K], clicks [R, W] (END -2, after the end -1), lengths [R], scores [R], q [R, W]."""
    items = weights[1]["weight"].shape[0]
    root_key, completion_key = jax.random.split(key)
    step = partial(_step, cell, slate_size, weights)

    def root_step(carry: Any, at: Any) -> Any:
        states, symbol, total, running = carry
        states, slate, symbol, gain = step(states, symbol, jax.random.fold_in(root_key, at))
        total = total + gain
        going = running & (symbol != items)
        return (states, symbol, total, going), (states, slate, symbol, total, running, going)

    hidden = weights[0]["layers"][0][1].shape[1]
    zeros = [[(jnp.zeros((sessions, hidden)),) * (1 + (cell == "lstm")) for _ in w["layers"]] for w in weights]
    begin = (zeros, jnp.full(sessions, items + 1), jnp.zeros(sessions), jnp.ones(sessions, bool))
    _, (states, slates, symbols, totals, running, going) = lax.scan(root_step, begin, jnp.arange(max_steps))
    lengths = running.sum(0)
    scores = nn.sigmoid(jnp.take_along_axis(totals, lengths[None] - 1, 0)[0] / lengths)

    def spread(x: Any) -> Any:
        """[W - 1, R, ...] to [(W - 1) R N, ...]: N rows for every prefix that another step can follow."""
        x = jnp.repeat(x[:-1], completions, axis=1)
        return x.reshape(-1, *x.shape[2:])

    prefix = jnp.repeat(jnp.arange(max_steps - 1), sessions * completions)  # the step that a row scores

    def completion_step(carry: Any, ahead: Any) -> Any:
        states, symbol, total, value, alive = carry
        states, _, symbol, gain = step(states, symbol, jax.random.fold_in(completion_key, ahead))
        total, at = total + gain, prefix + ahead
        ends = alive & ((symbol == items) | (at == max_steps - 1))
        value = jnp.where(ends, nn.sigmoid(total / (at + 1)), value)
        return (states, symbol, total, value, alive & ~ends), None

    begin = (jax.tree.map(spread, states), spread(symbols), spread(totals), jnp.zeros(prefix.shape), spread(going))
    (_, _, _, value, _), _ = lax.scan(completion_step, begin, jnp.arange(1, max_steps))
    q = value.reshape(max_steps - 1, sessions, completions).mean(2)
    q = jnp.concatenate([q, jnp.zeros((1, sessions))]).T
    steps, last = jnp.arange(max_steps), lengths[:, None] - 1
    q = jnp.where(steps < last, q, jnp.where(steps == last, scores[:, None], 0.0))
    clicks = symbols.T
    clicks = jnp.where(steps <= last, jnp.where(clicks == items, -2, clicks), -1)
    return slates.transpose(1, 0, 2), clicks, lengths, scores, q


def _step(cell: str, slate_size: int, weights: Any, states: Any, symbol: Any, key: Any) -> Any:
    """States after `symbol` [n], slate [n, K], click [n] as an embedding row, and D's term [n]."""
    states = [_recur(cell, w, state, symbol) for w, state in zip(weights, states)]
    user, agent, judge = ([w, state[-1][0] @ w["weight"].T + w["bias"]] for w, state in zip(weights, states))
    slate_key, click_key = jax.random.split(key)
    logits = agent[1]
    slate = lax.top_k(logits + jax.random.gumbel(slate_key, logits.shape), slate_size)[1]
    candidates = jnp.pad(slate, ((0, 0), (0, 1)), constant_values=logits.shape[1])
    click_logits = jnp.einsum("nke,ne->nk", user[0]["embedding"][candidates], user[1])
    choice = jnp.argmax(click_logits + jax.random.gumbel(click_key, click_logits.shape), 1)
    symbol = jnp.take_along_axis(candidates, choice[:, None], 1)[:, 0]
    embeddings = judge[0]["embedding"][candidates]
    share = nn.softmax(jnp.einsum("nke,ne->nk", embeddings, judge[1]) / TEMPERATURE, 1)
    products = jnp.einsum("nke,ne->nk", embeddings, judge[0]["embedding"][symbol])
    return states, slate, symbol, (share * products).sum(1)


def _recur(cell: str, weights: Any, state: Any, symbol: Any) -> Any:
    """One step of all layers, with torch's parameters: gates r, z, n of a GRU; i, f, g, o of an LSTM."""
    x, after = weights["embedding"][symbol], []
    for layer, (w_ih, w_hh, b_ih, b_hh) in zip(state, weights["layers"]):
        ours, past, h = x @ w_ih.T + b_ih, layer[0] @ w_hh.T + b_hh, layer[0]
        if cell == "gru":
            (r, z, n), (r_past, z_past, n_past) = jnp.split(ours, 3, 1), jnp.split(past, 3, 1)
            z = nn.sigmoid(z + z_past)
            x = (1 - z) * jnp.tanh(n + nn.sigmoid(r + r_past) * n_past) + z * h
            after.append((x,))
        else:
            i, f, g, o = jnp.split(ours + past, 4, 1)
            c = nn.sigmoid(f) * layer[1] + nn.sigmoid(i) * jnp.tanh(g)
            x = nn.sigmoid(o) * jnp.tanh(c)
            after.append((x, c))
    return after


@contextmanager
def _on_cores(count: int) -> Iterator[None]:
    """All threads of this process, XLA's pool among them, on so many cores: XLA has no other such setting after its start."""
    allowed = os.sched_getaffinity(0)
    _pin(set(sorted(allowed)[:count]))
    try:
        yield
    finally:
        _pin(allowed)


def _pin(cores: set[int]) -> None:
    for task in TASKS.iterdir():
        try:
            os.sched_setaffinity(int(task.name), cores)
        except ProcessLookupError:  # a thread that has just ended
            continue
