"""How good a policy or a model is."""

from irecgan_ext.evaluation.coverage import PolicyResult, coverage, evaluate_policy

__all__ = ["PolicyResult", "coverage", "evaluate_policy"]
