"""Kernels compile, whatever the process that calls them does beside: debugs, covers, forks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from normtree_kernels.compiled.jit import device
from normtree_kernels.sweeps import rows
from normtree_kernels.sweeps.maxima import chunk_norm
from normtree_kernels.sweeps.sums import chunk_sum

# One thread and a pool are there, or a compiler is at work; then a child is forked, which calls the same.
FORK = """
import os, sys
from threading import Event, Thread
import numpy as np
import normtree_kernels as nk

y = np.arange(1e6).reshape(1000, 1000)

def call():
    x = nk.project(y, "l1,linf", 5.0, threads=2)
    return x.tobytes(), nk.norm(x, "l1,linf"), nk.certify(y, x, "l1,linf", 5.0).feasible

def forked(wanted):
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(0 if call() == wanted and forked_again(wanted) else 1)

def forked_again(wanted):
    if pid := os.fork():
        return os.waitpid(pid, 0)[1] == 0
    os._exit(0 if call() == wanted else 1)

"""
AFTER_THREADS = "wanted = call(); print(forked(wanted), forked(wanted), call() == wanted)"
WHILE_IT_COMPILES = """
import numba
from numba.core import event
wanted = call()
begun = Event()

class Listener(event.Listener):
    def on_start(self, event):
        begun.set()
    def on_end(self, event):
        pass

event.register("numba:compile", Listener())
slow = numba.njit(lambda x: np.sort(np.sqrt(x) + np.cumsum(x[::-1])).sum())
compiling = Thread(target=slow, args=(np.ones(4),))
compiling.start()
begun.wait()
print(forked(wanted), call() == wanted)
compiling.join()
"""
COUNT = """
import numba, numpy as np
from normtree_kernels.parts import ranks
{}
print(ranks.above(np.arange(4.0), 1.5)[1], numba.config.DISABLE_JIT, type(numba.njit(lambda x: x)).__name__)
"""
ANSWER_S = 200


def run(code: str, **environment: str) -> str:
    """Run a program of one's own, since pytest's process is nobody's to fork."""
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=ANSWER_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_forked_child_has_threads_of_its_own() -> None:
    assert run(FORK + AFTER_THREADS) == "0 0 True\n"


def test_a_child_that_is_forked_while_another_thread_compiles_can_load_kernels() -> None:
    assert run(FORK + WHILE_IT_COMPILES) == "0 True\n"


def test_kernels_compile_where_numba_is_told_not_to(tmp_path: Path) -> None:
    cold = {"NUMBA_CACHE_DIR": str(tmp_path / "cold")}
    assert run(COUNT.format(""), NUMBA_DISABLE_JIT="1", **cold) == "2 1 function\n"
    later = COUNT.format("numba.config.DISABLE_JIT = 1")
    assert run(later, NUMBA_CACHE_DIR=str(tmp_path / "colder")) == "2 1 function\n"


def test_a_module_has_one_norm() -> None:
    module = "normtree_kernels.norms.l1"
    rows.up(module, chunk_sum, chunk_sum)  # as it has done itself: a module may be loaded again
    with pytest.raises(ValueError, match=r"norms\.l1: wanted one norm a module, .* got two"):
        rows.up(module, chunk_norm, chunk_norm)


def test_a_device_function_may_close_over_a_number() -> None:
    half = 0.5

    @device
    def chunk_halved(x: object) -> float:
        return half

    assert "0.5" in chunk_halved.__qualname__
