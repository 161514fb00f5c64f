"""Every Numba flag in one place: kernels are serial, release the GIL, and keep IEEE semantics.

No fast-math, no contraction, no ``parallel=True``: the order of every floating-point operation is the order
written in the source, so the bits of a result depend on neither the vector width nor the thread count.
"""

import ast
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, cast

from numba import config
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher

from normtree_kernels.compiled.code_cache import CodeCache, folders
from normtree_kernels.compiled.code_files import CodeFiles

F = TypeVar("F", bound=Callable[..., object])

Compiled = Callable[..., Any]
"""A kernel or a device function that is handed on."""

_FLAGS = MappingProxyType(
    {
        "nopython": True,
        "nogil": True,
        "boundscheck": False,
        "error_model": "numpy",
        "fastmath": False,
        "no_cfunc_wrapper": True,
    }
)
_PACKAGE, _SOURCES = __name__.partition(".")[0], Path(__file__).parents[2]
_KEEPERS = {f"{_PACKAGE}.compiled.{name}" for name in ("code_cache", "code_files")}  # no part of what they keep

_made: dict[tuple[str, str], str] = {}  # kernels by module and name, and what each closes over


class _Kernel(CPUDispatcher):
    """A function that is compiled for the types of its arguments when it is called with them."""

    def compile(self, sig: Any) -> Any:
        """Compile it, or load its machine code."""
        with global_compiler_lock, _not_disabled():
            return super().compile(sig)


def kernel(function: F) -> F:
    """Compile a kernel that Python calls, and keep its machine code on disk for the next process.

    Where no cache folder can be written (a read-only install without a home), it compiles once a process.
    """
    compiled: Any = _compiled(function, from_python=True)
    compiled._cache = CodeCache(function, _sources_digest(function.__module__), CodeFiles(folders()))
    return cast(F, compiled)


def kernel_of(module: str, name: str) -> Callable[[F], F]:
    """Make a kernel of a function that closes over device functions of another module: that one's, by that name.

    Args:
        module: ``__name__`` of the module to which the kernel belongs; its sources are what the kernel is made of.
        name: of the kernel there.
    """

    def made(function: F) -> F:
        function.__module__, function.__qualname__ = module, name
        within = _closed_over(function)
        if _made.setdefault((module, name), within) != within:
            raise ValueError(f"{module}: wanted one norm a module, for its machine code is known by that name, got two")
        return kernel(function)

    return made


def _closed_over(function: Callable[..., object]) -> str:
    """Name what a function closes over: functions by where they are defined, anything else by its value."""
    within = [cell.cell_contents for cell in function.__closure__ or ()]
    return ", ".join(f"{each.__module__}.{each.__qualname__}" if callable(each) else repr(each) for each in within)


def device(function: F) -> F:
    """Compile a function that only kernels call; it is part of their machine code, and Python cannot call it.

    One that closes over others is named after them. Its name is a symbol of machine code, and of two that two processes
    have compiled and a third loads, the linker would take the first for both.
    """
    if function.__closure__:
        function.__qualname__ = f"{function.__name__} of {_closed_over(function)}"
    return cast(F, _compiled(function, from_python=False))


def _compiled(function: Callable[..., object], *, from_python: bool) -> _Kernel:
    return _Kernel(function, targetoptions={**_FLAGS, "no_cpython_wrapper": not from_python})


@contextmanager
def _not_disabled() -> Iterator[None]:
    """Compile although ``NUMBA_DISABLE_JIT`` is set, as it is to debug or cover one's own code.

    Kernels are made of what has no meaning in plain Python. Whoever else defines a function in these moments gets it
    compiled too.
    """
    numba_config: Any = config
    numba_config.reload_config()  # else Numba does it in the midst, where the environment has changed
    told = numba_config.DISABLE_JIT
    numba_config.DISABLE_JIT = 0
    try:
        yield
    finally:
        numba_config.DISABLE_JIT = told


def _sources_digest(module: str) -> str:
    """Digest the sources that a module's kernels are made of: its own, and those of ours that it imports."""
    digest = sha256()
    for name in sorted(_reached(module)):
        digest.update(_source(name))
    return digest.hexdigest()


def _reached(module: str) -> set[str]:
    """Name a module and those of this package that it imports, and that these import."""
    found, left = set[str](), {module}
    while left:
        found.add(name := left.pop())
        left |= _imported(name) - found - _KEEPERS
    return found


@cache
def _imported(module: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{_PACKAGE}."):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if _is_module(name)}  # others are folders, and what modules offer


def _is_module(name: str) -> bool:
    return _SOURCES.joinpath(*name.split(".")).with_suffix(".py").is_file()


def _source(module: str) -> bytes:
    known = sys.modules.get(module)
    spec = None if known else find_spec(module)
    return Path(str(known.__file__ if known else spec and spec.origin)).read_bytes()


# A child that is forked while another thread compiles would wait for that thread, which it has not, for ever.
os.register_at_fork(
    before=global_compiler_lock.acquire,
    after_in_parent=global_compiler_lock.release,
    after_in_child=global_compiler_lock.release,
)
