"""Projections of tensors onto mixed-norm balls, in linear work: NumPy in, NumPy out."""

from normtree_kernels import reference
from normtree_kernels.certificate import Certificate, certify
from normtree_kernels.goal import NothingLeftWarning
from normtree_kernels.multilevel import norm, project
from normtree_kernels.norms import Level, MixedNorm
from normtree_kernels.radius import radius_for

__all__ = [
    "Certificate",
    "Level",
    "MixedNorm",
    "NothingLeftWarning",
    "certify",
    "norm",
    "project",
    "radius_for",
    "reference",
]
