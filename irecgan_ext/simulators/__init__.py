"""Simulated users and the policies whose value is known. The gymnasium environments are in `simulators.environment`."""

from irecgan_ext.simulators.logged import simulate_logged
from irecgan_ext.simulators.mdp import MDP, SimulatedStep, simulate, simulate_steps
from irecgan_ext.simulators.optimal import (
    BeliefPolicy,
    Oracle,
    OraclePolicy,
    best_fixed_slate,
    counts_policy,
    oracle_values,
    policy_values,
)
from irecgan_ext.simulators.policies import (
    FixedPolicy,
    MaxPolicy,
    MixPolicy,
    Policy,
    RandomPolicy,
    SoftmaxPolicy,
    StatePolicy,
)

__all__ = [
    "MDP",
    "BeliefPolicy",
    "FixedPolicy",
    "MaxPolicy",
    "MixPolicy",
    "Oracle",
    "OraclePolicy",
    "Policy",
    "RandomPolicy",
    "SimulatedStep",
    "SoftmaxPolicy",
    "StatePolicy",
    "best_fixed_slate",
    "counts_policy",
    "oracle_values",
    "policy_values",
    "simulate",
    "simulate_logged",
    "simulate_steps",
]
