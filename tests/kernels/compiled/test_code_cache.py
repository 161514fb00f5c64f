"""Machine code on disk: what a process loads is what was saved for it, whatever became of the files meanwhile."""

import multiprocessing
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest

from normtree_kernels.compiled import code_cache, jit
from normtree_kernels.compiled.code_cache import CodeCache, NotKept, kept_only
from normtree_kernels.compiled.code_files import CodeFiles, why_not_written
from normtree_kernels.norms.mixed_norm import NORMS

ROUNDS, FLIPS = 40, 100
NOWHERE = "/proc/normtree"  # where root cannot make a folder either
SIZE_LIMIT = 2000

# A real kernel, one that compiles quickly.
COUNT = "import numpy as np; from normtree_kernels.parts import ranks; print(ranks.above(np.arange(4.0), 1.5)[1])"
COUNTED = "2\n"
IMPORTS = "import numpy as np; import normtree_kernels as nk; y = np.arange(12.0).reshape(4, 3); "
NORM = "print(nk.norm(y, '{0}'), nk.norm(y.T, '{0}'), nk.norm(y, '{0},{0}'), nk.norm(y.T, '{0},{0}'))"
LIMITED = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({SIZE_LIMIT}, {SIZE_LIMIT})); "


def triple(x: int) -> int:
    return 3 * x


def kernel(folder: Path, stamp: str = "sources") -> Any:
    """A kernel that nobody has compiled in this process."""
    compiled: Any = numba.njit(triple)
    compiled._cache = CodeCache(triple, stamp, CodeFiles([folder]))
    return compiled


def counts(compiled: Any) -> tuple[int, int]:
    """Signatures loaded and compiled."""
    stats = compiled.stats
    return sum(stats.cache_hits.values()), sum(stats.cache_misses.values())


def called(folder: Path, stamp: str = "sources") -> tuple[int, int]:
    compiled = kernel(folder, stamp)
    assert compiled(14) == 42
    return counts(compiled)


def run(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def the_file(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))


def remove(path: Path) -> None:
    path.unlink()


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_link(path: Path) -> None:
    shutil.move(path, path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def let_others_write(path: Path) -> None:
    path.chmod(0o666)


def let_others_write_the_folder(path: Path) -> None:
    path.parent.chmod(0o777)


def give_away(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a file away takes root")
    os.chown(path, 12345, 12345)


def put_another_s_there(path: Path) -> None:
    """Whole, but machine code of something else."""
    files = CodeFiles([path.parent])
    files.write("another.nbc", path.read_bytes())
    path.with_name("another.nbc").replace(path)


DAMAGE = (
    cut,
    empty,
    garbage,
    remove,
    make_folder,
    make_fifo,
    make_link,
    let_others_write,
    let_others_write_the_folder,
    give_away,
    put_another_s_there,
)


def test_what_was_compiled_is_loaded(tmp_path: Path) -> None:
    assert called(tmp_path) == (0, 1)
    assert called(tmp_path) == (1, 0)


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_what_became_of_a_file_costs_a_compilation_and_no_result(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    called(tmp_path)
    damage(the_file(tmp_path))
    assert called(tmp_path) == (0, 1)


@pytest.mark.parametrize("damage", [cut, empty, garbage, remove, put_another_s_there], ids=lambda each: each.__name__)
def test_damaged_files_are_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    called(tmp_path)
    damage(the_file(tmp_path))
    called(tmp_path)
    assert called(tmp_path) == (1, 0)


def test_no_flipped_bit_is_loaded(tmp_path: Path) -> None:
    called(tmp_path)
    path, files, bits = the_file(tmp_path), CodeFiles([tmp_path]), random.Random(7)
    whole = path.read_bytes()
    for _ in range(FLIPS):
        bit = bits.randrange(8 * len(whole))
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert files.read(path.name) is None, f"bit {bit} of {8 * len(whole)}"
    path.write_bytes(whole)
    assert files.read(path.name) is not None
    assert called(tmp_path) == (1, 0)


def test_other_sources_code_is_not_loaded_and_makes_room(tmp_path: Path) -> None:
    called(tmp_path, "older sources")
    foreign = [tmp_path / name for name in ("another.triple-1.nbc", "sources.py", f"{__name__.rpartition('.')[2]}.nbi")]
    of_numba = [tmp_path / f"test_code_cache.triple-36.py3{sys.version_info.minor}.{end}" for end in ("nbi", "1.nbc")]
    for path in (*foreign, *of_numba):
        path.touch()
    assert called(tmp_path) == (0, 1)
    assert len(list(tmp_path.iterdir())) == len(foreign) + 1
    assert all(path.exists() for path in foreign)


def test_numba_s_options_have_machine_code_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called(tmp_path)
    monkeypatch.setattr(numba.config, "OPT", 0)
    assert called(tmp_path) == (0, 1)


def test_nothing_is_compiled_where_only_what_is_kept_is_wanted(tmp_path: Path) -> None:
    with kept_only(), pytest.raises(NotKept, match="triple"):
        kernel(tmp_path)(14)
    called(tmp_path)
    with kept_only():
        assert kernel(tmp_path)(14) == 42


def test_a_group_of_ones_own_may_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    os.chown(tmp_path, -1, os.getegid())
    called(tmp_path)
    assert called(tmp_path) == (1, 0)


def test_the_first_folder_that_takes_files_gets_them_and_all_are_read(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir()
    shared.chmod(0o777)
    files = CodeFiles([Path(NOWHERE), shared, own])
    assert files.write("name", b"code") == own
    assert files.read("name") == b"code"
    assert list(shared.iterdir()) == []
    assert why_not_written(own) == ""
    assert why_not_written(shared) == "others can write to it"
    assert why_not_written(Path(NOWHERE)) != ""
    assert [path.name for path in own.iterdir()] == ["name"]


def save_and_load(folder: Path, worker: int) -> None:
    files = CodeFiles([folder])
    for round_ in range(ROUNDS):
        content = f"{worker} {round_}".encode()
        assert files.write(f"{worker}-{round_}", content) == folder
        assert files.write("all", bytes(ROUNDS)) == folder
        assert (files.read(f"{worker}-{round_}"), files.read("all")) == (content, bytes(ROUNDS))


def test_processes_that_save_at_once_lose_and_mix_up_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=save_and_load, args=(tmp_path, worker)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    files = CodeFiles([tmp_path])
    assert all(files.read(f"{worker}-{round_}") for worker in range(3) for round_ in range(ROUNDS))
    assert len(list(tmp_path.iterdir())) == 3 * ROUNDS + 1


def test_a_file_that_cannot_be_written_whole_leaves_nothing(tmp_path: Path) -> None:
    done = run(LIMITED + COUNT, NUMBA_CACHE_DIR=str(tmp_path))
    assert (done.stdout, done.stderr) == (COUNTED, "")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_no_folder_at_all_is_no_error() -> None:
    done = run(COUNT, NUMBA_CACHE_DIR=NOWHERE)
    assert (done.stdout, done.stderr) == (COUNTED, "")


def test_kernels_are_known_by_the_sources_that_they_are_made_of() -> None:
    reached = jit._reached("normtree_kernels.norms.l2")
    own = {"norms": ["l2", "linf"], "sweeps": ["rows", "columns", "maxima"],
           "compiled": ["elements", "halves", "lanes", "vectors", "jit"]}  # fmt: skip
    assert {f"normtree_kernels.{room}.{name}" for room, names in own.items() for name in names} <= reached
    others = ("multilevel", "norms.mixed_norm", "norms.l1", "sweeps.sweep", "arrays")
    assert reached.isdisjoint(f"normtree_kernels.{name}" for name in others)
    sources = Path(jit.__file__).parents[2]
    paths = (path.relative_to(sources).with_suffix("") for path in sources.rglob("normtree_kernels/**/*.py"))
    modules = {".".join(path.parts) for path in paths}
    assert reached <= modules
    assert jit._sources_digest("normtree_kernels.sweeps.rows") != jit._sources_digest("normtree_kernels.sweeps.columns")


def test_kernels_that_processes_of_their_own_have_compiled_are_not_taken_for_each_other(tmp_path: Path) -> None:
    """Whatever was compiled first in a process may have the same names in its machine code as another's first."""
    calls = {name: NORM.format(name) for name in NORMS}
    alone = [run(IMPORTS + call, NUMBA_CACHE_DIR=str(tmp_path)).stdout for call in calls.values()]
    together = run(IMPORTS + "; ".join(calls.values()), NUMBA_CACHE_DIR=str(tmp_path)).stdout
    assert together == "".join(alone)
    assert len({*alone}) == len(calls)


def test_folders_are_those_of_numba(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = code_cache.folders.__wrapped__
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    (given,) = found()
    assert given.parent == tmp_path
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    beside = Path(jit.__file__).parents[1] / "__pycache__"
    assert found() == (beside, tmp_path / "numba" / given.name)
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody/of/this/name")
    assert found() == (beside,)
