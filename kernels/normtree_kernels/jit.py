"""Every Numba flag in one place: kernels are serial, release the GIL, and keep IEEE semantics.

No fast-math, no contraction, no ``parallel=True``: the order of every floating-point operation is the order
written in the source, so the bits of a result depend on neither the vector width nor the thread count.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from normtree_kernels.code_cache import CodeCacheFile

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile a kernel that Python calls, and keep its machine code on disk for the next process.

    Where no cache folder can be written (a read-only install without a home), it compiles once a process.
    """
    try:
        return _kept(_compile(function, cache=True))
    except RuntimeError:  # Numba's "no locator available": there is nowhere to write the cache
        return _compile(function, cache=False)


def _kept(kernel: F) -> F:
    """Keep a kernel's machine code in files safe to share, tied to all sources of this package, not its own alone."""
    kept = kernel._cache  # type: ignore[attr-defined]
    kept._cache_file = CodeCacheFile(kept.cache_path, kept._impl.filename_base, _sources_digest())
    return kernel


@cache
def _sources_digest() -> str:
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def device(function: F) -> F:
    """Compile a function that only kernels call; it is part of their machine code, and Python cannot call it."""
    return _compile(function, cache=False, from_python=False)


def _compile(function: F, *, cache: bool, from_python: bool = True) -> F:
    compiler = cast(Any, numba.njit)(  # its stubs lack the wrappers
        cache=cache,
        nogil=True,
        boundscheck=False,
        error_model="numpy",
        fastmath=False,
        no_cpython_wrapper=not from_python,
        no_cfunc_wrapper=True,
    )
    return cast(F, compiler(function))
