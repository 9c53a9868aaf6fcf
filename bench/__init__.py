"""Benchmarks: one file per question, the peers they are measured against in `peers`, committed results in `results`."""
