"""Machine code on disk, shared by processes that compile and load it at the same time.

Numba keeps an index and numbered data files for each kernel, believes both, and ends the call where either cannot be
read or written. Here each signature has a file of its own, named by all that its machine code depends on. There is no
index that could name another's, and no lock: two that compile the same at once write the same file. What goes wrong
with a file costs a compilation, never a result.
"""

import logging
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba import config
from numba.core.caching import _Cache, _CacheLocator
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

from normtree_kernels.compiled.code_files import CodeFiles

_DIGITS = 16
_SUFFIX = ".nbc"
_PYTHON = f"{sys.implementation.cache_tag}{getattr(sys, 'abiflags', '')}"
_NUMBAS_PYTHON = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
_OPTIONS = ("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "LOOP_VECTORIZE", "SLP_VECTORIZE")  # of Numba, as it is started

_config: Any = config  # made while Numba is imported
_kept_only = ContextVar("kept_only", default=False)

logger = logging.getLogger(__name__)


class NotKept(Exception):
    """A kernel's machine code is not on disk, and nobody wants to wait for a compiler."""


@contextmanager
def kept_only() -> Iterator[None]:
    """Load kernels within this context, but raise `NotKept` instead of compiling one."""
    token = _kept_only.set(True)
    try:
        yield
    finally:
        _kept_only.reset(token)


@cache
def folders() -> tuple[Path, ...]:
    """Where machine code is looked for, and kept in the first that takes it; one that takes none is read.

    That of ``NUMBA_CACHE_DIR`` alone, or else beside the sources and the user's own: the folders that Numba uses.
    """
    source = Path(__file__).parents[1] / "__init__.py"
    installed = _CacheLocator.get_suitable_cache_subpath(str(source))
    if _config.CACHE_DIR:
        return (Path(_config.CACHE_DIR).absolute() / installed,)
    own = Path(AppDirs(appname="numba", appauthor=False).user_cache_dir)
    return (source.parent / "__pycache__", *([own / installed] if own.is_absolute() else []))  # else there is no home


class CodeCache(_Cache):
    """One kernel's machine code, as Numba asks for it.

    Args:
        function: the kernel.
        stamp: what the sources are known by of which its machine code is made; that of others is not loaded.
        files: where it is kept.
    """

    def __init__(self, function: Callable[..., object], stamp: str, files: CodeFiles) -> None:
        self._kernel = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        self._stamp = _short((stamp, numba.__version__, llvmlite.__version__))
        self._files = files
        self._enabled = True

    @property
    def cache_path(self) -> str:
        """The first of the folders, for Numba's statistics."""
        return str(self._files.folders[0])

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the machine code of a signature, or None.

        Raises:
            NotKept: there is none, within `kept_only`.
        """
        target_context.refresh()
        content = self._files.read(self._name(sig, target_context.codegen())) if self._enabled else None
        if content is not None:
            try:
                return CompileResult._rebuild(target_context, *pickle.loads(content))
            except Exception:  # whole, but written by something that calls itself by the same versions
                logger.info("%s: its machine code cannot be used", self._kernel, exc_info=True)
        if _kept_only.get():
            raise NotKept(self._kernel)
        logger.debug("compiling %s%s", self._kernel, sig)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the machine code of a signature where a folder takes it, in place of that of older sources."""
        if not self._enabled or data.library.has_dynamic_globals or any(not each.can_cache for each in data.lifted):
            return
        name = self._name(sig, data.codegen)
        if self._files.write(name, dumps(data._reduce())) is None:
            logger.info("%s: no folder takes its machine code: %s", self._kernel, ", ".join(map(str, folders())))
        self._files.discard(self._is_stale)

    def enable(self) -> None:
        """Use the files."""
        self._enabled = True

    def disable(self) -> None:
        """Use no files."""
        self._enabled = False

    def flush(self) -> None:
        """Remove the kernel's files."""
        self._files.discard(lambda name: name.startswith(f"{self._kernel}-"))

    def _name(self, sig: Any, codegen: Any) -> str:
        options = [getattr(_config, name, None) for name in _OPTIONS]
        return f"{self._kernel}-{_PYTHON}-{self._stamp}-{_short((sig, codegen.magic_tuple(), options))}{_SUFFIX}"

    def _is_stale(self, name: str) -> bool:
        """Tell whether a file is this kernel's for this Python, but of other sources, or of Numba's own cache."""
        if name.startswith(f"{self._kernel}-{_PYTHON}-"):
            return self._stamp not in name
        return re.fullmatch(rf"{re.escape(self._kernel)}-\d+\.{_NUMBAS_PYTHON}\.(nbi|\d+\.nbc)", name) is not None


def _short(values: tuple[object, ...]) -> str:
    return sha256(repr(values).encode()).hexdigest()[:_DIGITS]
