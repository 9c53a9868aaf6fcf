"""The experiments by name."""

from __future__ import annotations

from irecgan_ext.experiments import figure2
from irecgan_ext.experiments.options import Experiment, ExperimentName

EXPERIMENTS: dict[ExperimentName, Experiment] = {"figure2": figure2.EXPERIMENT}
