"""Plain-PyTorch twins of the native operators: the obvious loops over the same random numbers, oracles of the tests."""

from irecgan_ext.reference.catalogue_sample import catalogue_sample
from irecgan_ext.reference.gumbel_topk import BLOCK, gumbel_race, gumbel_topk
from irecgan_ext.reference.linear_gumbel_topk import linear_gumbel_topk
from irecgan_ext.reference.linear_log_prob import linear_log_prob
from irecgan_ext.reference.philox import ARRIVAL, CLICK, PICK, Stream, exponential, philox4x32, uniform
from irecgan_ext.reference.rollout import rollout

__all__ = [
    "ARRIVAL",
    "BLOCK",
    "CLICK",
    "PICK",
    "Stream",
    "catalogue_sample",
    "exponential",
    "gumbel_race",
    "gumbel_topk",
    "linear_gumbel_topk",
    "linear_log_prob",
    "philox4x32",
    "rollout",
    "uniform",
]
