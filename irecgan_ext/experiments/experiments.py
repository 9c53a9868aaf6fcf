"""The experiments by name."""

from __future__ import annotations

from irecgan_ext.experiments import ablation, bias, figure2, figure3, table1
from irecgan_ext.experiments.options import Experiment, ExperimentName

EXPERIMENTS: dict[ExperimentName, Experiment] = {
    "figure2": figure2.EXPERIMENT,
    "figure3": figure3.EXPERIMENT,
    "ablation": ablation.EXPERIMENT,
    "bias": bias.EXPERIMENT,
    "table1": table1.EXPERIMENT,
}
