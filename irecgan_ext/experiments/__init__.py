"""The paper's experiments, as grids of runs that can be interrupted: `python -m irecgan_ext.experiments`."""
