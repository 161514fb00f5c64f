"""A norm of vectors, as an object: all that the tree, its kernels and its homes need to know of one.

A new norm is one module with a subclass of `Norm`, and its line in `normtree_kernels.norms.mixed_norm.NORMS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any, ClassVar

import numpy as np

from normtree_kernels.compiled.jit import Compiled
from normtree_kernels.dtypes import Array, Float64Array

Balls = tuple[Float64Array, ...]
Seen = dict[bytes, tuple[Array, ...]]


class Norm(ABC):
    """A norm of vectors, and the projection onto its balls.

    There is one object of each subclass, whatever is copied or sent to another process. Of a norm that is a function
    of magnitudes and grows with them; kernels take float64 for elements of any type (see elements.py).

    Attributes:
        name: in text such as ``"l1,linf"``.
        dual: name of the dual norm, where that is in the registry.
        rows_up: kernel ``(x, offsets, length, v)`` that writes the norms of fibres whose elements are neighbours, from
            `normtree_kernels.sweeps.rows.up`.
        rows_down: kernel ``(x, offsets, length, whole, v, u, out, out_offsets, streaming)`` that projects such fibres,
            or parts of fibres of ``whole`` elements, from `normtree_kernels.sweeps.rows.down`.
        columns_up: the same of fibres that lie side by side; None: they are packed to rows.
        columns_down: the same.
        searches: whether the balls of fibres that are cut take questions to find; see `search`.
        vanishes: whether groups vanish under it at the root, so that a number of them can be asked for.
        cuts_anywhere: whether a fibre's norm, and its projection, are the same wherever it is cut.
        piece_bytes: what one thread sweeps in a few tens of milliseconds.
        widening: how many times as large a piece may be for the sake of longer runs in memory.
        margin: share of a radius that projections may stay inside of their balls, for rounding.
    """

    name: ClassVar[str]
    dual: ClassVar[str | None] = None
    rows_up: ClassVar[Compiled]
    rows_down: ClassVar[Compiled]
    columns_up: ClassVar[Compiled | None] = None
    columns_down: ClassVar[Compiled | None] = None
    searches: ClassVar[bool] = False
    vanishes: ClassVar[bool] = False
    cuts_anywhere: ClassVar[bool] = False
    piece_bytes: ClassVar[int] = 1 << 26
    widening: ClassVar[int] = 4
    margin: ClassVar[float] = 0.0

    _only: ClassVar[dict[type, "Norm"]] = {}

    def __new__(cls) -> "Norm":
        """Return the one object."""
        if cls not in Norm._only:
            Norm._only[cls] = super().__new__(cls)
        return Norm._only[cls]

    @property
    def of_parts(self) -> "Norm":
        """The norm that takes the norms of a vector's parts to that of the vector."""
        return self

    @property
    def of_one(self) -> "Norm":
        """The norm that stands for it on fibres of one element."""
        return self

    @abstractmethod
    def growth(self, count: int) -> float:
        """The norm of a vector of that many ones."""

    @abstractmethod
    def reference_norm(self, values: Float64Array) -> Float64Array:
        """The norms of non-negative vectors along the last axis, by the definition: for the oracle."""

    @abstractmethod
    def reference_project(self, values: Float64Array, radius: float) -> Float64Array:
        """Project one non-negative vector whose norm exceeds the radius, by the definition: for the oracle."""

    def search(
        self, v: Float64Array, u: Float64Array, size: int, dtype: np.dtype[Any], seen: Seen | None = None
    ) -> Generator[Any, Any, Balls]:
        """Find what fibres that are cut are projected by, with questions where that takes some.

        Args:
            v: the fibres' norms, finite.
            u: their radii.
            size: elements in a whole fibre.
            dtype: of the elements.
            seen: answers of former searches in the same fibre, if there is but one; those of this one are added.

        Returns:
            Arrays of the shape of ``v``.
        """
        yield from ()
        return v, u

    def project_chunks(self, part: Array, balls: Balls, out: Array) -> None:
        """Project parts of fibres by what `search` found, where that is not norms and radii.

        Args:
            part: fibres along its last axis. Not changed.
            balls: from `search`, of the part's fibres.
            out: of the part's shape and type; overwritten.
        """
        raise NotImplementedError(f"{self.name}: its parts are projected by norms and radii")

    def __str__(self) -> str:
        """The name."""
        return self.name

    def __repr__(self) -> str:
        """The name, as in errors."""
        return f"<norm {self.name}>"
