"""The methods of the paper's section 7, behind one interface."""

from irecgan_ext.training.methods.registry import METHODS, TITLES, Kept, Method

__all__ = ["METHODS", "TITLES", "Kept", "Method"]
