"""A trained agent at work: recommendations from click histories, its state kept between calls, export."""

from irecgan_ext.serving.recommender import Recommendation, Recommender
from irecgan_ext.serving.topk import linear_topk

__all__ = ["Recommendation", "Recommender", "linear_topk"]
