"""Agent and user model against each other until END or the cap, with completions scored by the discriminator (Eq 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from irecgan_ext.reference.gumbel_topk import gumbel_race
from irecgan_ext.reference.philox import CLICK, Stream, uniform

_PAD = -1
_END = -2
_BOS = -3
_TEMPERATURE = 0.1


@torch.no_grad()
def rollout(
    user: Sequence[Tensor],
    agent: Sequence[Tensor],
    discriminator: Sequence[Tensor],
    user_state: Tensor,
    agent_state: Tensor,
    discriminator_state: Tensor,
    state_index: Tensor,
    symbols: Tensor,
    steps: Tensor,
    rows: Tensor,
    score_sums: Tensor,
    seed: Tensor,
    cell: str,
    reward: str,
    slate_size: int,
    completions: int,
    max_steps: int,
    share: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Generate R sessions from given prefixes and, with `completions` = N > 0, score each of their steps.

    Generated steps fill the output from column 0: column j of row i is absolute step `steps[i] + j`. After each step on
    which a session goes on, N completions branch off from its states and run to their own end. W = max_steps.

    Args:
        user: [embedding.weight, *rnn, query.weight, query.bias], and for binary rewards reward_query.weight, .bias.
        agent: [embedding.weight, *rnn, head.weight, head.bias].
        discriminator: [embedding.weight, *rnn, query.weight, query.bias], and for binary rewards reward_scale.weight,
            .bias. Empty: nothing is scored, no completions run, scores and q are 0.
        user_state, agent_state, discriminator_state: [Z, L, S, H] float32, Z = 1 (gru: h) or 2 (lstm: h, c). L and H may
            differ between models. The last is not read without a discriminator.
        state_index: [R] int64. Which of the S states a row starts from.
        symbols: [R] int64. Next recurrent input of each row: BOS or an item.
        steps: [R] int64. Absolute step a row starts at, below max_steps.
        rows: [R] int64. Global ids, the key of each row's random numbers.
        score_sums: [R] float32. Sum of the discriminator's step scores over the `steps` steps of the prefix.
        seed: [] int64.
        cell: "gru" or "lstm". reward: "survival" or "binary".
        slate_size: K. completions: N. max_steps: cap on absolute steps; step max_steps - 1 is the last.
        share: accepted for the operator's signature; every row has its own states here.

    Returns:
        slates [R, W, K] int64 and clicks [R, W] int64, PAD after the end; rewards [R, W] float32; lengths [R] int64, steps
        generated; censored [R] bool, cut at the cap; scores [R] float32, D of the session, prefix included; q [R, W]
        float32, Eq (6): mean D of a step's completions, D itself at the last step, 0 where there is neither; work [4] int64:
        row steps, distinct states, GEMM rows (both equal to row steps here), iterations.
    """
    models = _Models(user, agent, discriminator, agent[-1].shape[0], cell, reward)
    starts = (user_state, agent_state, discriminator_state if discriminator else user_state[..., :0])
    zeros = torch.zeros_like(symbols)
    root = torch.arange(len(rows), device=rows.device)
    active = _Rows(root, zeros, zeros, steps, symbols, score_sums, *(s[:, :, state_index] for s in starts))
    record = _Record(steps, slate_size, completions, max_steps)
    row_steps = iterations = 0
    while len(active):
        row_steps += len(active)
        iterations += 1
        stream = Stream(seed, rows[active.root], active.step, active.completion, active.spawn)
        active = models.advance(active)
        slates = gumbel_race(_head(agent, active.agent_state), slate_size, stream)[1]
        clicks, rewards = models.click(active.user_state, slates, stream)
        sums = active.score_sum + models.step_score(active.discriminator_state, slates, clicks, rewards)
        active = active.replace(symbol=clicks, score_sum=sums)
        record.write_step(active, slates, clicks, rewards)
        finished = (clicks == _END) | (active.step == max_steps - 1)
        record.write_end(active.select(finished), scored=bool(discriminator))

        active = active.replace(step=active.step + 1)
        going_roots = active.select(~finished & (active.spawn == 0))
        active = active.select(~finished).append(going_roots.branch(completions if discriminator else 0))
    work = torch.tensor([row_steps, row_steps, row_steps, iterations], device=rows.device)
    return (*record.outputs(), work)


@dataclass(frozen=True)
class _Rows:
    """n running sessions, roots and completions.

    root, completion, spawn, step and symbol (the next recurrent input) are [n] int64, score_sum is [n] float32, the states
    are [Z, L, n, H] float32.
    """

    root: Tensor
    completion: Tensor
    spawn: Tensor
    step: Tensor
    symbol: Tensor
    score_sum: Tensor
    user_state: Tensor
    agent_state: Tensor
    discriminator_state: Tensor

    def __len__(self) -> int:
        return self.root.shape[0]

    def replace(self, **changes: Tensor) -> _Rows:
        return _Rows(**{**self._values(), **changes})

    def select(self, index: Tensor) -> _Rows:
        return _Rows(**{name: x[:, :, index] if x.dim() == 4 else x[index] for name, x in self._values().items()})

    def append(self, other: _Rows) -> _Rows:
        more = other._values()
        return _Rows(
            **{name: torch.cat([x, more[name]], 2 if x.dim() == 4 else 0) for name, x in self._values().items()}
        )

    def branch(self, completions: int) -> _Rows:
        """The completions of these roots, whose `step` is already the next one."""
        index = torch.arange(len(self), device=self.root.device).repeat_interleave(completions)
        numbers = torch.arange(completions, device=self.root.device).repeat(len(self))
        copies = self.select(index)
        return copies.replace(completion=numbers, spawn=copies.step)

    def _values(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


class _Record:
    """The outputs of `rollout`, filled in as root steps and sessions end. `starts` [R] int64: the roots' first steps."""

    def __init__(self, starts: Tensor, slate_size: int, completions: int, max_steps: int) -> None:
        count = len(starts)
        self.starts, self.completions = starts, max(completions, 1)
        self.slates = starts.new_full((count, max_steps, slate_size), _PAD)
        self.clicks = starts.new_full((count, max_steps), _PAD)
        self.rewards = starts.new_zeros((count, max_steps), dtype=torch.float32)
        self.lengths = torch.zeros_like(starts)
        self.censored = torch.zeros_like(starts, dtype=torch.bool)
        self.scores = torch.zeros_like(starts, dtype=torch.float32)
        self.q = starts.new_zeros((count, max_steps), dtype=torch.float64)

    def write_step(self, active: _Rows, slates: Tensor, clicks: Tensor, rewards: Tensor) -> None:
        is_root = active.spawn == 0
        at = active.root[is_root], (active.step - self.starts[active.root])[is_root]
        self.slates[at], self.clicks[at], self.rewards[at] = slates[is_root], clicks[is_root], rewards[is_root]

    def write_end(self, ended: _Rows, scored: bool) -> None:
        """Sessions on their last step, whose `symbol` is the click of that step."""
        value = torch.sigmoid(ended.score_sum / (ended.step + 1)) * scored
        is_root = ended.spawn == 0
        root, column = ended.root, ended.step - self.starts[ended.root]
        self.lengths[root[is_root]] = column[is_root] + 1
        self.censored[root[is_root]] = (ended.symbol != _END)[is_root]
        self.scores[root[is_root]] = value[is_root]
        branch = ended.spawn - 1 - self.starts[root]
        share = torch.where(is_root, 1.0, 1.0 / self.completions)
        self.q.index_put_((root, torch.where(is_root, column, branch)), value.double() * share, accumulate=True)

    def outputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        q = self.q.float()
        return self.slates, self.clicks, self.rewards, self.lengths, self.censored, self.scores, q


@dataclass(frozen=True)
class _Models:
    """Flat parameter lists of user model, agent and discriminator (see `rollout`) and how to read them."""

    user: Sequence[Tensor]
    agent: Sequence[Tensor]
    discriminator: Sequence[Tensor]
    items: int
    cell: str
    reward: str

    def advance(self, active: _Rows) -> _Rows:
        """The rows after every model has consumed `symbol`."""
        return active.replace(
            user_state=self._recur(self.user, active.user_state, active.symbol),
            agent_state=self._recur(self.agent, active.agent_state, active.symbol),
            discriminator_state=self._recur(self.discriminator, active.discriminator_state, active.symbol),
        )

    def click(self, state: Tensor, slates: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        """Clicks [n] int64 by Eq (1) and rewards [n] float32 by Eq (2) on slates [n, K] int64."""
        index, is_item = self._candidates(slates)
        logits = _dot(self.user[0][index], _head(self.user, state)).masked_fill(~is_item, -torch.inf).double()
        words = stream.words(CLICK, torch.zeros_like(stream.rows))
        weights = (logits - logits.amax(1, keepdim=True)).exp().cumsum(1)
        target = uniform(words[:, 0], words[:, 1])[:, None] * weights[:, -1:]
        choice = (weights > target).int().argmax(1)
        chosen = index.gather(1, choice[:, None])[:, 0]
        goes_on = choice < slates.shape[1]
        clicks = torch.where(goes_on, chosen, _END)
        if self.reward == "survival":
            return clicks, goes_on.float()
        logit = (_head(self.user, state, 1) * self.user[0][chosen]).sum(1)
        earned = uniform(words[:, 2], words[:, 3]) < torch.sigmoid(logit.double())
        return clicks, (goes_on & earned).float()

    def step_score(self, state: Tensor, slates: Tensor, clicks: Tensor, rewards: Tensor) -> Tensor:
        """[n] float32: the step's term in the mean of appendix 1, the favourite item by softmax at temperature 0.1."""
        if not self.discriminator:
            return torch.zeros_like(rewards)
        embedding = self.discriminator[0]
        index, is_item = self._candidates(slates)
        logits = _dot(embedding[index], _head(self.discriminator, state)).masked_fill(~is_item, -torch.inf)
        weights = torch.softmax(logits / _TEMPERATURE, 1)
        favourite = (weights[:, :, None] * embedding[index]).sum(1)
        score = (favourite * embedding[torch.where(clicks == _END, self.items, clicks)]).sum(1)
        if self.reward == "survival":
            return score
        weight, bias = self.discriminator[-2:]
        return score * (weight.view(()) * rewards + bias.view(()))

    def _candidates(self, slates: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding rows [n, K + 1] of a slate's items and END, and which of them can be clicked (PAD cannot)."""
        index = torch.nn.functional.pad(slates, (0, 1), value=self.items)
        return torch.where(index == _PAD, self.items, index), index != _PAD

    def _recur(self, parameters: Sequence[Tensor], state: Tensor, symbols: Tensor) -> Tensor:
        """State [Z, L, n, H] after input `symbols` [n], as torch.nn.GRU and torch.nn.LSTM define their cells."""
        if not parameters:
            return state
        x = parameters[0][torch.where(symbols == _BOS, self.items + 1, symbols)]
        layers = []
        for layer in range(state.shape[1]):
            weight_ih, weight_hh, bias_ih, bias_hh = parameters[1 + 4 * layer : 5 + 4 * layer]
            inputs = x @ weight_ih.T + bias_ih
            hidden = state[0, layer] @ weight_hh.T + bias_hh
            old = state[:, layer]
            layers.append(_gru(inputs, hidden, old[0]) if self.cell == "gru" else _lstm(inputs, hidden, old[1]))
            x = layers[-1][0]
        return torch.stack(layers, 1)


def _gru(inputs: Tensor, hidden: Tensor, h: Tensor) -> Tensor:
    """[1, n, H] from the projections [n, 3H] (gates r, z, n) of the input and of h [n, H]."""
    (input_r, input_z, input_n), (hidden_r, hidden_z, hidden_n) = inputs.chunk(3, 1), hidden.chunk(3, 1)
    reset, update = torch.sigmoid(input_r + hidden_r), torch.sigmoid(input_z + hidden_z)
    candidate = torch.tanh(input_n + reset * hidden_n)
    return ((1 - update) * candidate + update * h)[None]


def _lstm(inputs: Tensor, hidden: Tensor, c: Tensor) -> Tensor:
    """[2, n, H] (h, c) from the projections [n, 4H] (gates i, f, g, o) and the cell state c [n, H]."""
    i, f, g, o = (inputs + hidden).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.stack([torch.sigmoid(o) * torch.tanh(c), c])


def _head(parameters: Sequence[Tensor], state: Tensor, which: int = 0) -> Tensor:
    """Linear head number `which` of a model applied to the last layer's h of state [Z, L, n, H]."""
    first = 1 + 4 * state.shape[1] + 2 * which
    return state[0, -1] @ parameters[first].T + parameters[first + 1]


def _dot(embeddings: Tensor, query: Tensor) -> Tensor:
    """[n, K] from embeddings [n, K, E] and query [n, E]."""
    return (embeddings @ query[:, :, None])[:, :, 0]
