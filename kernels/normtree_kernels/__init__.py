"""Projections of tensors onto mixed-norm balls, in linear work: NumPy in, NumPy out."""

from normtree_kernels import reference
from normtree_kernels.multilevel import norm, project
from normtree_kernels.norms import Level, MixedNorm

__all__ = ["Level", "MixedNorm", "norm", "project", "reference"]
