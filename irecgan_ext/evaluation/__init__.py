"""How good a policy or a model is."""

from irecgan_ext.evaluation.coverage import PolicyResult, coverage, evaluate_policy
from irecgan_ext.evaluation.online import evaluate_methods, table
from irecgan_ext.evaluation.policies import AgentPolicy, RecurrentPolicy, UserModelPolicy, learnt_policy
from irecgan_ext.evaluation.rerank import rerank, rerank_table

__all__ = [
    "AgentPolicy",
    "PolicyResult",
    "RecurrentPolicy",
    "UserModelPolicy",
    "coverage",
    "evaluate_methods",
    "evaluate_policy",
    "learnt_policy",
    "rerank",
    "rerank_table",
    "table",
]
