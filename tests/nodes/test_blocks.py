"""Several nodes: blocks that a cluster holds are projected where they are, to the library's bits."""

import re
from collections.abc import Iterator
from itertools import pairwise
from threading import Thread
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest
import ray
from numpy.typing import NDArray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import normtree_kernels as nk
from normtree import on_ray
from normtree.engine.cluster.ray_environment import prepare_environment
from normtree.errors import DeadlineExceeded, InvalidParameter, InvalidTensor, NormtreeError
from normtree_kernels.dtypes import ACCEPTED
from normtree_kernels.norms.mixed_norm import NORMS

pytestmark = [pytest.mark.nodes, pytest.mark.slow]

STORE_BYTES = 256 * 2**20
GONE_SOON = {"health_check_period_ms": 300}  # a node that is gone refuses connections: five of them are soon tried
NODE_S = 240  # Ray's own half a minute is too little where much else goes on
SHAPE = (3000, 700)

prepare_environment(embedded=True)


def noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(11).standard_t(3, shape).astype(np.float32)


def add_node(made: Cluster, **more: Any) -> Any:
    added = made.add_node(wait=False, num_cpus=2, object_store_memory=STORE_BYTES, **more)
    made.wait_for_nodes(NODE_S)
    return added


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes; the driver is on the first."""
    made = Cluster()
    try:
        for more in ({"_system_config": GONE_SOON}, {}, {}):
            add_node(made, **more)
        ray.init(address=made.address, log_to_driver=False, configure_logging=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def nodes() -> list[str]:
    return sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])


def hold(block: NDArray[np.float32]) -> NDArray[np.float32]:
    return block


def put_on(node: str, block: NDArray[np.float32]) -> Any:
    """Have a task of that node make a block; it can be made again elsewhere."""
    there = NodeAffinitySchedulingStrategy(node, soft=True)
    return ray.remote(max_retries=3)(hold).options(scheduling_strategy=there).remote(block)


def lay_in_turn(blocks: list[NDArray[Any]], over: int) -> list[Any]:
    """Lay blocks on so many nodes in turn; wait until the cluster tells where the large ones are, which travel not."""
    places = nodes()[:over]
    refs = [put_on(places[i % over], block) for i, block in enumerate(blocks)]
    ray.wait(refs, num_returns=len(refs), fetch_local=False)
    wait_until_told([ref for ref, block in zip(refs, blocks, strict=True) if block.nbytes > 2**20])
    return refs


def wait_until_told(refs: list[Any]) -> None:
    end_s = monotonic() + 60
    while refs and not all(where(refs)) and monotonic() < end_s:
        sleep(0.01)


def spread(y: NDArray[np.float32], count: int, over: int, axis: int = 0) -> list[Any]:
    """Cut a tensor into blocks of about one size."""
    return lay_in_turn(np.array_split(y, count, axis), over)


def lay(y: NDArray[Any], edges: list[int], axis: int) -> list[Any]:
    """Cut a tensor at edges."""
    return lay_in_turn(np.split(y, edges, axis), 2)


def where(refs: list[Any]) -> list[set[str]]:
    found = ray.experimental.get_object_locations(refs)
    return [set(found[ref]["node_ids"]) for ref in refs]


@pytest.mark.parametrize(("count", "over"), [(1, 1), (2, 2), (3, 3), (7, 3)])
@pytest.mark.parametrize(
    ("norm", "axes", "axis"), [("l1,linf", None, 0), ("l1,l1", "1,0", 1), ("l1,l2", None, 0), ("linf,l1", "1,0", -1)]
)
def test_the_bits_are_the_library_s_and_results_stay(
    cluster: Cluster, norm: str, axes: str, axis: int, count: int, over: int
) -> None:
    y = noise(SHAPE)
    radius = 0.2 * nk.norm(y, norm, axes=axes)
    blocks = spread(y, count, over, axis)
    before = where(blocks)
    found = on_ray.project_timed(blocks, norm, radius, axes=axes, axis=axis)
    assert where(found.blocks) == before, "each result is where its block is"
    assert where(blocks) == before, "and no block went anywhere"
    x = np.concatenate(ray.get(found.blocks), axis)
    assert x.tobytes() == nk.project(y, norm, radius, axes=axes).tobytes()
    assert (found.timing.nodes, found.timing.blocks) == (over, count)
    assert found.timing.span_ms <= found.timing.work_ms
    assert found.timing.bytes_moved == 24 * SHAPE[axis]
    assert (found.timing.serial_is, found.timing.serial_ms) == ("summed", found.timing.work_ms)


ACROSS = [
    ((50_003,), "l1", None, 0, [7 * 1024, 20 * 1024]),
    ((50_003,), "l2", None, 0, [1024]),
    ((50_003,), "linf", None, 0, [777, 778]),
    ((3, 20_000), "l1,l1", None, 1, [8192]),
    ((20_000, 3), "linf,l1", "1,0", 0, [1024, 2048]),
    ((2, 9 * 1024 + 1), "l1,l2", None, -1, [9 * 1024]),
    ((5, 40, 128), "l2,l1", "0,1.2", 1, [8, 24]),
    ((1, 40, 3, 128), "linf,l1", "2,0.1.3", 1, [8, 24]),
    ((40, 3, 128), "l1,l2", "1,0.2", 0, [16]),
    ((30, 7, 11), "l1,l1,linf", "0,2,1", 1, [1, 4]),
    ((3, 4096), "l1,l1", None, 1, [1024, 4096]),
    ((3, 1500), "l1,l1", None, 1, [1024]),
    ((1025, 4), "linf,l2", "1,0", 0, [1024]),
    ((3, 1), "l1,l2", None, 1, [0, 1]),
]


@pytest.mark.parametrize(("shape", "norm", "axes", "axis", "edges"), ACROSS)
@pytest.mark.parametrize(
    ("share", "dtype"), [(0.2, "float32"), (1.5, "bfloat16"), (0.0, "float64"), (1e-17, "float64")]
)
def test_blocks_may_cut_fibres(
    cluster: Cluster,
    shape: tuple[int, ...],
    norm: str,
    axes: str,
    axis: int,
    edges: list[int],
    share: float,
    dtype: str,
) -> None:
    y = noise(shape).astype(dtype)
    radius = share * nk.norm(y, norm, axes=axes)
    found = on_ray.project_timed(lay(y, edges, axis), norm, radius, axes=axes, axis=axis)
    x = np.concatenate(ray.get(found.blocks), axis)
    assert x.tobytes() == nk.project(y, norm, radius, axes=axes).tobytes()
    assert found.timing.blocks == len(edges) + 1


@pytest.mark.parametrize(
    ("shape", "norm", "axes", "axis", "edges"),
    [
        ((300, 70), "l1,linf", None, 0, [100, 101]),
        ((70, 300), "l1,linf", "1,0", 1, [100]),
        ((30, 7, 11), "l1,linf,linf", None, 0, [7]),
        ((300, 70), "l1,l2", None, 0, [100]),
        ((5, 20_000), "l1,linf", None, 1, [1024, 8192]),
        ((20_000, 5), "l1,linf", "1,0", 0, [8192]),
        ((4, 40, 128), "l1,linf,linf", None, 1, [16]),
    ],
)
def test_the_exact_projection_in_rounds(
    cluster: Cluster, shape: tuple[int, ...], norm: str, axes: str, axis: int, edges: list[int]
) -> None:
    y = noise(shape)
    for share in (0.1, 1e-14):
        radius = share * nk.norm(y, norm, axes=axes)
        blocks = ray.get(on_ray.project(lay(y, edges, axis), norm, radius, axes=axes, axis=axis, exact=True))
        assert np.concatenate(blocks, axis).tobytes() == nk.project(y, norm, radius, axes=axes, exact=True).tobytes()


@pytest.mark.parametrize(
    ("shape", "axis", "edges", "options", "message"),
    [
        ((3, 9_000), 1, [1000], {"norm": "l1,l1"}, "at a multiple of 1024 elements of a fibre, got block 1 at 1000"),
        ((3, 1_500), 1, [1000], {"norm": "l1,l2"}, "at a multiple of 1024 elements of a fibre, got block 1 at 1000"),
        ((3, 40, 128), 2, [64], {"norm": "l1,l1"}, "wanted blocks along axis 1, its outermost one, or whole fibres"),
        ((3, 9_000), 1, [1000], {"norm": "l1,linf", "exact": True}, "at a multiple of 1024 elements"),
        ((3, 9_000), 0, [1], {"norm": "l1,l1", "exact": True}, "exact: the Euclidean projection is known for l1,linf"),
        ((9_000,), 0, [1000], {"norm": "l1", "radius": None, "groups": 5}, "at a multiple of 1024 elements"),
    ],
)
def test_cuts_that_cannot_be_are_refused(
    cluster: Cluster, shape: tuple[int, ...], axis: int, edges: list[int], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParameter, match=message):
        on_ray.project(lay(noise(shape), edges, axis), **{"radius": 1.0, "axis": axis, **options})


CUTS = {
    "between fibres": ((3, 2049), 0, [1, 1]),
    "across fibres": ((3, 2049), 1, [1024, 2048]),
    "one block": ((3, 2049), 0, []),
    "a vector": ((6145,), 0, [2048, 2048, 6144]),
    "a vector in one block": ((6145,), 0, []),
}


@pytest.mark.parametrize("dtype", ACCEPTED)
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("goal", [{"radius": 3.0}, {"sparsity": 0.4}, {"groups": 2}], ids=str)
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("inner", NORMS)
def test_every_norm_reaches_every_goal_in_every_cut(
    cluster: Cluster, inner: str, cut: str, goal: dict[str, Any], exact: bool, dtype: str
) -> None:
    shape, axis, edges = CUTS[cut]
    norm = inner if len(shape) == 1 else f"l1,{inner}"
    y = noise(shape).astype(dtype)
    try:
        expected = nk.project(y, norm, **goal, exact=exact)
    except ValueError as error:
        with pytest.raises(InvalidParameter, match=re.escape(str(error))):
            on_ray.project(lay(y, edges, axis), norm, axis=axis, exact=exact, **goal)
        return
    found = on_ray.project(lay(y, edges, axis), norm, axis=axis, exact=exact, **goal)
    assert np.concatenate(ray.get(found), axis).tobytes() == expected.tobytes()


@pytest.mark.parametrize("edges", [[], [1024], [1024, 1024, 4096]])
def test_elements_are_ranked_in_rounds(cluster: Cluster, edges: list[int]) -> None:
    y = np.round(noise((5000,)), 1)
    for goal in ({"sparsity": 0.0}, {"sparsity": 0.99}, {"groups": 7}, {"groups": 0}, {"groups": 5000}):
        found = on_ray.project_timed(lay(y, edges, 0), "l1", **goal)
        x = np.concatenate(ray.get(found.blocks))
        assert x.tobytes() == nk.project(y, "l1", **goal).tobytes()
        left, asked = found.timing.groups_left, found.timing.groups_asked
        assert left == np.count_nonzero(x)
        assert asked is not None
        assert left is not None
        assert left <= asked


@pytest.mark.parametrize("goal", [{"radius": 1.0}, {"sparsity": 0.5}], ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_fibres_of_a_tensor_without_elements_take_no_memory(cluster: Cluster, axis: int, goal: dict[str, Any]) -> None:
    block = np.empty((1 << 40, 0), np.float32)
    found = on_ray.project_timed([ray.put(block), ray.put(block)], "l1,linf", axis=axis, **goal)
    assert [made.shape for made in ray.get(found.blocks)] == [block.shape] * 2
    assert found.timing.groups_asked == (None if "radius" in goal else found.timing.shape[0] // 2)


def test_no_blocks_are_refused(cluster: Cluster) -> None:
    with pytest.raises(InvalidParameter, match="blocks: wanted at least one block, got none"):
        on_ray.project([], "l1", 1.0)


BLOCK = np.ones((4, 3), np.float32)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (lambda _: BLOCK, "got an array; put it into the cluster first"),
        (lambda ref: ref, r"got one reference; of a tensor in one block, give \[reference\]"),
        (lambda ref: [ref, BLOCK], "got numpy.ndarray at position 1: ray.put makes a reference of it"),
        (lambda ref: [ref, [ref]], "got list at position 1: references are not to be nested"),
        (lambda ref: (ref, None), "got None at position 1"),
        (lambda _: ["x"], "got str at position 0"),
        (lambda ref: (each for each in (ref, 5)), "got int at position 1"),
        (lambda ref: np.array([ref, 5.0], object), "got float at position 1"),
        (lambda ref: {ref}, "got set"),
        (lambda ref: {0: ref}, "got dict"),
        (lambda _: "x", "got str"),
        (lambda _: None, "got None"),
    ],
)
def test_what_is_no_reference_is_told_by_its_position(cluster: Cluster, blocks: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message) as caught:
        on_ray.project(blocks(ray.put(BLOCK)), "l1,linf", 1.0)
    assert "blocks: wanted a list of references to arrays" in str(caught.value)


@pytest.mark.parametrize("make", [list, tuple, iter, lambda refs: (ref for ref in refs)])
def test_whatever_yields_references_is_taken(cluster: Cluster, make: Any) -> None:
    made = on_ray.project(make([ray.put(BLOCK), ray.put(2 * BLOCK)]), "l1,linf", 1.0, axis=np.int64(0))  # type: ignore[arg-type]
    expected = nk.project(np.concatenate([BLOCK, 2 * BLOCK]), "l1,linf", 1.0)
    np.testing.assert_array_equal(np.concatenate(ray.get(made)), expected)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"axis": 1.0}, TypeError, "axis: wanted an integer, got float"),
        ({"axis": True}, TypeError, "axis: wanted an integer, got bool"),
        ({"norm": None}, TypeError, "norm: wanted text such as 'l1,linf', got None"),
        ({"exact": "no"}, TypeError, "exact: wanted True or False, got str"),
        ({"deadline_s": "5"}, TypeError, "deadline_s: wanted seconds or None, got str"),
        ({"deadline_s": float("nan")}, InvalidParameter, "deadline_s: wanted seconds >= 0 or None, got nan"),
        ({"deadline_s": -1}, InvalidParameter, "deadline_s: wanted seconds >= 0 or None, got -1"),
        ({"radius": "5"}, InvalidParameter, "radius: wanted a real number, got str"),
    ],
)
def test_arguments_are_checked_where_they_come_in(
    cluster: Cluster, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        on_ray.project([ray.put(BLOCK)], **{"norm": "l1,linf", "radius": 1.0, **options})


def test_a_reference_to_nothing_is_told(cluster: Cluster) -> None:
    with pytest.raises(InvalidParameter, match="the reference at position 1 refers to nothing"):
        on_ray.project([ray.put(BLOCK), ray.ObjectRef.nil()], "l1,linf", 1.0)


def test_a_trace_of_several_nodes_shows_one_piece_at_a_time(cluster: Cluster) -> None:
    y = noise((4, 200_000))
    timing = on_ray.project_timed(lay(y, [51_200, 102_400], 1), "l1,l1", 100.0, axis=1).timing
    for row in {span.worker for span in timing.spans}:
        own = sorted((span.start_ns, span.stop_ns) for span in timing.spans if span.worker == row)
        assert all(a[1] <= b[0] for a, b in pairwise(own))


def test_goals_are_reached(cluster: Cluster) -> None:
    y = noise(SHAPE)
    x = np.concatenate(ray.get(on_ray.project(spread(y, 2, 2), "l1,linf", sparsity=0.9)))
    assert x.tobytes() == nk.project(y, "l1,linf", sparsity=0.9).tobytes()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"norm": "l3", "radius": 1.0}, InvalidParameter, "unknown norm 'l3'"),
        ({"norm": "l1,linf"}, InvalidParameter, "exactly one of radius, sparsity, groups"),
        ({"norm": "l1,l2", "radius": 1.0, "axis": 1}, InvalidParameter, "axis: 1 belongs to the innermost level of l1"),
        ({"norm": "l1,linf", "radius": 1.0, "axis": 2}, InvalidParameter, "axis: 2 is out of range"),
        ({"norm": "l1,linf", "groups": 10_000}, InvalidParameter, "groups: wanted 0 to 20"),
    ],
)
def test_wrong_arguments_are_refused(
    cluster: Cluster, options: dict[str, Any], kind: type[NormtreeError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        on_ray.project(spread(noise((20, 30)), 2, 2), **options)


def test_blocks_that_do_not_fit_are_refused(cluster: Cluster) -> None:
    refs = [ray.put(noise((20, 30))), ray.put(noise((20, 31)))]
    with pytest.raises(InvalidTensor, match=r"blocks: wanted blocks like the first, \(20, 30\) float32, along axis 0"):
        on_ray.project(refs, "l1,linf", 1.0)
    with pytest.raises(InvalidTensor, match=r"blocks: wanted a numpy\.ndarray, got list"):
        on_ray.project([ray.put([1.0])], "l1,linf", 1.0)


def test_a_bad_element_is_told_by_its_block_and_index(cluster: Cluster) -> None:
    y = noise(SHAPE)
    y[2000, 3] = np.inf
    with pytest.raises(InvalidTensor, match=r"^block 1: element \[500, 3\] is inf") as caught:
        on_ray.project(spread(y, 2, 2), "l1,linf", 1.0)
    assert (caught.value.pointer, caught.value.limit, caught.value.got) == ("blocks", "finite elements", np.inf)


@pytest.mark.parametrize(("norm", "exact"), [("l1,l1", False), ("l1,linf", True), ("l1,linf", False)])
def test_sums_that_overflow_are_told(cluster: Cluster, norm: str, exact: bool) -> None:
    blocks = [ray.put(np.full((1, 4), 8e307)) for _ in range(3)]
    with pytest.raises(InvalidTensor, match=r"^block.* overflows float64") as caught:
        on_ray.project(blocks, norm, 1e307, exact=exact)
    assert (caught.value.pointer, caught.value.got) == ("blocks", np.inf)


def test_a_deadline_cancels_the_tasks(cluster: Cluster) -> None:
    blocks = spread(noise((40, 500_000)), 4, 2)
    with pytest.raises(DeadlineExceeded, match="and was cancelled"):
        on_ray.project(blocks, "l1,l1", 10.0, deadline_s=0.02)
    x = np.concatenate(ray.get(on_ray.project(blocks, "l1,l1", 10.0, deadline_s=100.0)))
    assert np.count_nonzero(x) > 0


@pytest.mark.kills
def test_a_node_that_is_removed_in_mid_request_changes_no_bit(cluster: Cluster) -> None:
    added = add_node(cluster)
    y = noise((64, 200_000))
    here = ray.get_runtime_context().get_node_id()
    blocks = [put_on(place, block) for place, block in zip((here, added.node_id), np.array_split(y, 2), strict=True)]
    ray.wait(blocks, num_returns=2, fetch_local=False)
    wait_until_told(blocks)
    assert where(blocks)[1] == {added.node_id}
    remover = Thread(target=lambda: (sleep(0.03), cluster.remove_node(added, allow_graceful=False)))
    remover.start()
    x = np.concatenate(ray.get(on_ray.project(blocks, "l1,l1", 500.0, deadline_s=100.0)))
    remover.join()
    assert x.tobytes() == nk.project(y, "l1,l1", 500.0).tobytes()
