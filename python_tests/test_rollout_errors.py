"""Every rule of the rollout operator's arguments, by its message."""

import pytest
import torch
from settings import BOS, Setting

from irecgan_ext import ops


def change(name, value):
    return lambda arguments: arguments.__setitem__(name, value)


def change_tensor(name, index, value):
    return lambda arguments: arguments[name].__setitem__(index, value)


def drop_last(name):
    return lambda arguments: arguments[name].pop()


LONGS = torch.arange(3)
RULES = [
    ("gru", change("cell", "rnn"), "cell must be 'gru' or 'lstm', got 'rnn'"),
    ("gru", change("reward", "none"), "reward must be 'survival' or 'binary', got 'none'"),
    (
        "gru",
        change("user_state", torch.zeros(1, 1, 7)),
        "user_state must have 4 dimensions [Z, L, S, H], got [1, 1, 7]",
    ),
    (
        "gru",
        change("user_state", torch.zeros(1, 0, 1, 7)),
        "user_state must have at least one layer [Z, L, S, H], got [1, 0, 1, 7]",
    ),
    ("gru", change("user_state", torch.zeros(1, 1, 1, 8)), "user_state must have shape [1, 1, 1, 7], got [1, 1, 1, 8]"),
    (
        "lstm",
        change("agent_state", torch.zeros(1, 1, 1, 8)),
        "agent_state must have shape [2, 1, 1, 8], got [1, 1, 1, 8]",
    ),
    (
        "gru",
        change("agent_state", torch.zeros(1, 1, 2, 8)),
        "agent_state must have shape [1, 1, 1, 8], got [1, 1, 2, 8]",
    ),
    (
        "gru",
        change("discriminator_state", torch.zeros(1, 1, 1, 5)),
        "discriminator_state must have shape [1, 1, 1, 6], got [1, 1, 1, 5]",
    ),
    (
        "gru",
        change("agent_state", torch.zeros(1, 1, 1, 8).double()),
        "agent_state must have dtype float32, got float64",
    ),
    ("gru", change("agent", []), "agent[0] must be an embedding [C + 2, E], got nothing"),
    ("gru", change_tensor("agent", 0, torch.zeros(15)), "agent[0] must be an embedding [C + 2, E], got [15]"),
    ("gru", drop_last("user"), "user must hold 7 tensors, got 6"),
    ("binary", drop_last("user"), "user must hold 9 tensors, got 8"),
    ("gru", drop_last("agent"), "agent must hold 7 tensors, got 6"),
    ("gru", drop_last("discriminator"), "discriminator must hold 7 tensors, got 6"),
    ("gru", change("reward", "binary"), "user must hold 9 tensors, got 7"),
    ("gru", change_tensor("user", 3, torch.zeros(21).half()), "user[3] must have dtype float32, got float16"),
    ("gru", change_tensor("user", 0, torch.zeros(15)), "user[0] must have 2 dimensions [C + 2, E], got [15]"),
    ("gru", change_tensor("user", 2, torch.zeros(21)), "user[2] must have 2 dimensions [G H, H], got [21]"),
    (
        "gru",
        change_tensor("user", 0, torch.zeros(15, 0)),
        "user[0] must have at least one column [C + 2, E], got [15, 0]",
    ),
    ("gru", change_tensor("user", 2, torch.zeros(0, 0)), "user[2] must have at least one column [G H, H], got [0, 0]"),
    ("gru", change_tensor("user", 0, torch.zeros(14, 5)), "user[0] must have shape [15, 5], got [14, 5]"),
    ("gru", change_tensor("user", 1, torch.zeros(21, 6)), "user[1..] must have shape [21, 5], got [21, 6]"),
    ("gru", change("cell", "lstm"), "user[1..] must have shape [28, 5], got [21, 5]"),
    ("gru", change_tensor("agent", 2, torch.zeros(23, 8)), "agent[1..] must have shape [24, 8], got [23, 8]"),
    ("gru", change_tensor("agent", 3, torch.zeros(23)), "agent[1..] must have shape [24], got [23]"),
    ("gru", change_tensor("agent", 4, torch.zeros(24, 1)), "agent[1..] must have shape [24], got [24, 1]"),
    ("gru", change_tensor("user", 5, torch.zeros(5, 8)), "user[5] must have shape [5, 7], got [5, 8]"),
    ("gru", change_tensor("user", 6, torch.zeros(4)), "user[6] must have shape [5], got [4]"),
    ("binary", change_tensor("user", 7, torch.zeros(5, 8)), "user[7] must have shape [5, 7], got [5, 8]"),
    ("gru", change_tensor("agent", 5, torch.zeros(12, 8)), "agent[5] must have shape [13, 8], got [12, 8]"),
    ("gru", change_tensor("agent", 6, torch.zeros(12)), "agent[6] must have shape [13], got [12]"),
    (
        "gru",
        change_tensor("discriminator", 5, torch.zeros(4, 7)),
        "discriminator[5] must have shape [4, 6], got [4, 7]",
    ),
    ("binary", change_tensor("discriminator", 7, torch.zeros(1)), "discriminator[7] must have shape [1, 1], got [1]"),
    ("gru", change("state_index", LONGS.int()), "state_index must have dtype int64, got int32"),
    ("gru", change("symbols", LONGS.float()), "symbols must have dtype int64, got float32"),
    ("gru", change("symbols", LONGS[:2]), "symbols must have shape [3], got [2]"),
    ("gru", change("steps", LONGS[:, None]), "steps must have shape [3], got [3, 1]"),
    ("gru", change("rows", LONGS[:1]), "rows must have shape [3], got [1]"),
    ("gru", change("score_sums", LONGS), "score_sums must have dtype float32, got int64"),
    ("gru", change("score_sums", torch.zeros(4)), "score_sums must have shape [3], got [4]"),
    ("gru", change("seed", torch.tensor(1.0)), "seed must have dtype int64, got float32"),
    ("gru", change("seed", torch.arange(2)), "seed must hold one element, got [2]"),
    ("gru", change("slate_size", 0), "slate_size must be in 1..C (C = 13), got 0"),
    ("gru", change("slate_size", 14), "slate_size must be in 1..C (C = 13), got 14"),
    ("gru", change("completions", -1), "completions must be in 0..65535, got -1"),
    ("gru", change("completions", 65_536), "completions must be in 0..65535, got 65536"),
    ("gru", change("max_steps", 0), "max_steps must be in 1..65535, got 0"),
    ("gru", change("max_steps", 65_536), "max_steps must be in 1..65535, got 65536"),
    ("gru", change("discriminator", []), "completions must be 0 without a discriminator, got 2"),
    ("gru", change("state_index", LONGS), "state_index[1] must be in 0..S - 1 (S = 1), got 1"),
    ("gru", change("rows", LONGS - 1), "rows[0] must be in 0..2^40 - 1, got -1"),
    ("gru", change("rows", LONGS + 2**40 - 1), f"rows[1] must be in 0..2^40 - 1, got {2**40}"),
    ("gru", change("steps", LONGS - 1), "steps[0] must be in 0..max_steps - 1 (max_steps = 6), got -1"),
    ("gru", change("steps", LONGS + 4), "steps[2] must be in 0..max_steps - 1 (max_steps = 6), got 6"),
    ("gru", change("symbols", LONGS + 11), "symbols[2] must be in 0..C - 1 (C = 13) or BOS, got 13"),
    ("gru", change("symbols", BOS + LONGS), "symbols[1] must be in 0..C - 1 (C = 13) or BOS, got -2"),
]


@pytest.mark.parametrize("impl", ["native", "reference"])
@pytest.mark.parametrize(("kind", "break_rule", "message"), RULES, ids=[message for *_, message in RULES])
def test_broken_rules(kind, break_rule, message, impl):
    setting = Setting("lstm" if kind == "lstm" else "gru", "binary" if kind == "binary" else "survival", layers=1)
    arguments = setting.arguments(torch.arange(3), completions=2)
    ops.rollout(**arguments, impl=impl)
    break_rule(arguments)
    with pytest.raises(ValueError) as error:
        ops.rollout(**arguments, impl=impl)
    assert str(error.value) == message


def test_unknown_implementation():
    with pytest.raises(ValueError, match="^impl must be 'native' or 'reference', got 'cuda'$"):
        ops.rollout(**Setting(layers=1).arguments(torch.arange(1)), impl="cuda")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_agents_without_enough_logits(value):
    setting = Setting(layers=1)
    with torch.no_grad():
        setting.agent.head.bias[:10] = value
    with pytest.raises(ValueError) as error:
        setting.native(torch.tensor([7]))
    rule = "agent logits must hold at least slate_size = 4 finite entries and no NaN or +inf"
    assert str(error.value) == f"{rule}: row 7, step 0"
    if value == -float("inf"):
        setting.native(torch.tensor([7]), slate=3)
