"""The four homes of one algorithm, each as a function from cases to bytes."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path
from typing import Any

import httpx
import ml_dtypes
import numpy as np
import pytest
import ray
from numpy.typing import NDArray
from safetensors.numpy import save, save_file

import normtree_kernels as nk
from normtree import on_ray
from normtree.engine.cluster.ray_environment import prepare_environment
from normtree.engine.memory.tensor import Tensor
from normtree.engine.profile import leaf_bench
from normtree.engine.projector import Projector
from normtree.files.tensor_file import read_file
from normtree.jobs.recipe import parse_recipe
from normtree.jobs.run import JobOptions, run_job
from normtree.settings import Settings
from normtree_kernels.compiled.lanes import CHUNK
from normtree_kernels.norms.mixed_norm import NORMS

Array = NDArray[Any]
OWN = Path(__file__).parent / "own"
DTYPES = ("float64", "float32", "float16", "bfloat16")
SOME = ("float32",)

# Rows, columns, filters; few long fibres, whose last part, where they are cut, has one element; a vector.
SHAPES: dict[int, list[tuple[tuple[int, ...], str]]] = {
    1: [((3 * CHUNK + 1,), "0"), ((40, 30), "0.1")],
    2: [((40, 30), "0,1"), ((2 * CHUNK + 1, 3), "1,0"), ((3, 4 * CHUNK + 1), "0,1"), ((6, 5, 3, 3), "0,1.2.3")],
    3: [((6, 5, 9), "0,1,2")],
}
GOALS: tuple[dict[str, Any], ...] = ({"radius": 0.3}, {"radius": 1e-9}, {"sparsity": 0.4}, {"groups": 2})


@dataclass(frozen=True)
class Case:
    """One projection; a radius is a share of the norm."""

    norm: str
    axes: str
    shape: tuple[int, ...]
    dtype: str
    goal: tuple[str, float]
    exact: bool

    @property
    def y(self) -> Array:
        noise = np.random.default_rng(len(self.norm) + sum(self.shape)).standard_t(3, self.shape)
        return noise.astype(ml_dtypes.bfloat16 if self.dtype == "bfloat16" else self.dtype)

    @property
    def given(self) -> dict[str, Any]:
        """The goal, as callers give it."""
        name, value = self.goal
        return {name: value * nk.norm(self.y, self.norm, axes=self.axes) if name == "radius" else value}

    @property
    def wanted(self) -> bytes:
        """What the library says."""
        return nk.project(self.y, self.norm, axes=self.axes, exact=self.exact, **self.given).tobytes()


def cases_of(names: Sequence[str]) -> list[Case]:
    """The table, over some norms and all that there are at the root."""
    texts = [*names, *map(",".join, product(("l1", *names), names)), *(f"{name},{names[0]},l1" for name in names)]
    return [
        Case(text, axes, shape, dtype, goal, exact)
        for text in dict.fromkeys(texts)
        for shape, axes in SHAPES[1 + text.count(",")]
        for dtype in DTYPES
        for given in GOALS
        for goal in given.items()
        for exact in (False, True)
        if _is_possible(text, goal[0], exact=exact)
    ]


def _is_possible(text: str, goal: str, *, exact: bool) -> bool:
    if goal != "radius" and not NORMS[text.partition(",")[0]].vanishes:
        return False
    return not exact or (text in ("l1,linf", "l1,l2") and (goal == "radius" or text == "l1,l2"))


Home = Callable[[Sequence[Case]], list[bytes]]


@pytest.fixture(scope="session")
def table() -> list[Case]:
    """The table, over all norms of the registry; or a smaller one over those that are named to it."""
    named = os.environ.get("NORMTREE_TESTED_NORMS")
    return [case for case in cases_of(named.split(",")) if case.dtype in SOME] if named else cases_of(list(NORMS))


@pytest.fixture(scope="module")
def importable() -> Iterator[None]:
    """Let this process, and those that it starts, import the norms of our own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(OWN), *filter(None, sys.path)]))
        patch.syspath_prepend(OWN)
        yield


@pytest.fixture(scope="module")
def projector(importable: None) -> Iterator[Projector]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            leaf_bench, "SIZES", dict.fromkeys(leaf_bench.SIZES, (1 << 12, 1 << 16))
        )  # nobody asks for its figures
        started = Projector.start(Settings(workers=3, arena_bytes=2**28, ray_restart_s=0))
    with started:
        yield started


@pytest.fixture(scope="module")
def threads() -> Home:
    """The library, on three threads."""

    def project(cases: Sequence[Case]) -> list[bytes]:
        return [
            nk.project(case.y, case.norm, axes=case.axes, exact=case.exact, threads=3, **case.given).tobytes()
            for case in cases
        ]

    return project


@pytest.fixture(scope="module")
def engine(projector: Projector) -> Home:
    """Shared memory, on three threads or three of Ray's workers in turn."""

    def project(cases: Sequence[Case]) -> list[bytes]:
        found = []
        for case, name in zip(cases, cycle(("inline", "ray", "ray"))):
            y = case.y
            plan = projector.plan(
                y.shape, y.dtype.name, norm=case.norm, axes=case.axes, exact=case.exact,
                engine=name, workers=3, **case.given,
            )  # fmt: skip
            with ExitStack() as held:
                source, target = (
                    Tensor(held.enter_context(projector.arena.lease(y.nbytes)).name, y.shape, y.dtype.name)
                    for _ in range(2)
                )
                source.array(writable=True)[...] = y
                projector.project(source, target, plan)
                found.append(target.array().tobytes())
        return found

    return project


@pytest.fixture(scope="module")
def cluster(importable: None) -> Iterator[Home]:
    """References in a cluster, in blocks along each axis in turn."""
    prepare_environment(embedded=True)
    ray.init(num_cpus=2, log_to_driver=False, configure_logging=False, include_dashboard=False)

    def project(cases: Sequence[Case]) -> list[bytes]:
        found = []
        for number, case in enumerate(cases):
            axis = number % len(case.shape)
            blocks = blocks_of(case, axis)
            made = on_ray.project(
                [ray.put(block) for block in blocks], case.norm, axes=case.axes, axis=axis, exact=case.exact,
                **case.given,
            )  # fmt: skip
            found.append(np.concatenate(ray.get(made), axis=axis).tobytes())
        return found

    yield project
    ray.shutdown()


def blocks_of(case: Case, axis: int) -> list[Array]:
    """Cut a tensor in up to three blocks along an axis, where it can be cut; the last has one index."""
    mixed = nk.MixedNorm.parse(case.norm, case.axes, ndim=len(case.shape))
    length = case.shape[axis]
    if axis in mixed.kept_axes:
        edges = [length // 2, length - 1]
    elif length > CHUNK and len([a for a in mixed.inner.axes if case.shape[a] > 1]) == 1:
        edges = [CHUNK, (length - 1) // CHUNK * CHUNK]
    else:
        edges = []
    return np.split(case.y, sorted({edge for edge in edges if 0 < edge < length}), axis=axis)


@pytest.fixture
def jobs(tmp_path: Path) -> Home:
    """Panels of a file, each of a few KiB."""

    def project(cases: Sequence[Case]) -> list[bytes]:
        source = tmp_path / "in"
        source.mkdir()
        save_file({f"t{i:04}": case.y for i, case in enumerate(cases)}, source / "model.safetensors")
        rules = [
            "\n".join(
                [f'[[rules]]\ntensors = "t{i:04}"\nnorm = "{case.norm}"\naxes = "{case.axes}"']
                + [f"{name} = {value!r}" for name, value in case.given.items()]
                + ["exact = true"] * case.exact
            )
            for i, case in enumerate(cases)
        ]
        recipe = parse_recipe(f'input = "{source}"\noutput = "{tmp_path / "out"}"\n' + "\n".join(rules))
        options = JobOptions(workers=2, memory_bytes=1 << 20, engine="inline")
        run_job(recipe, options)
        made = read_file(tmp_path / "out" / "model.safetensors").tensors
        return [made[f"t{i:04}"].tobytes() for i in range(len(cases))]

    return project


@pytest.fixture(scope="module")
def http(importable: None, tmp_path_factory: pytest.TempPathFactory, serve: Any) -> Iterator[Home]:
    """The service, asked for one tensor after the other."""
    log = tmp_path_factory.mktemp("service") / "log.txt"
    names = [path.stem for path in OWN.glob("*.py")]
    with serve(log, importing=names, workers=2, inline_only=True) as (base, _), httpx.Client(base_url=base) as client:

        def project(cases: Sequence[Case]) -> list[bytes]:
            return [ask(client, case) for case in cases]

        yield project


def ask(client: httpx.Client, case: Case) -> bytes:
    query = {"norm": case.norm, "axes": case.axes, "exact": str(case.exact).lower(), **case.given}
    body = save({"t": case.y})
    answer = client.post(
        "/v1/project", params=query, content=body, headers={"Content-Type": "application/vnd.safetensors"}
    )
    assert answer.status_code == 200, answer.text
    return answer.content[-case.y.nbytes :]  # behind a header, there is but one tensor
