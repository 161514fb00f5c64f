"""Projections of tensors onto mixed-norm balls, in linear work: NumPy in, NumPy out.

Importing this package loads no Numba yet: what it offers is loaded when it is first used.

An argument that cannot be is refused with a ValueError or a TypeError that tells its name, what was wanted and what was
given one by one: a `normtree_kernels.refusals.Refusal`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normtree_kernels import reference
    from normtree_kernels.certificates.certificate import Certificate, certify
    from normtree_kernels.multilevel import norm, project
    from normtree_kernels.norms.mixed_norm import Level, MixedNorm
    from normtree_kernels.radius import radius_for
    from normtree_kernels.tree.goal import NothingLeftWarning

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

_MODULES = {
    "Certificate": "certificates.certificate", "certify": "certificates.certificate",
    "Level": "norms.mixed_norm", "MixedNorm": "norms.mixed_norm", "NothingLeftWarning": "tree.goal",
    "norm": "multilevel", "project": "multilevel", "radius_for": "radius",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load what is asked for, and keep it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULES.get(name, name)}")
    found = getattr(module, name) if name in _MODULES else module
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
