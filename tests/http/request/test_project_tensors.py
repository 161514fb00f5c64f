"""Several tensors in one body: which are projected, which pass through, and in which format they come back."""

import hashlib
import io
import json
import re
from typing import Any

import httpx
import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

import normtree_kernels as nk
from normtree.compact import expand
from normtree.formats.contents import Contents, Entry
from normtree.formats.safetensors import encode_header, read_header

Array = NDArray[Any]

NPY, SAFETENSORS = "application/x-npy", "application/vnd.safetensors"
DTYPES = {
    "F32": np.float32, "F64": np.float64, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I8": np.int8,
}  # fmt: skip


def noise(*shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def tensors_body(tensors: dict[str, Array], metadata: dict[str, str] | None = None) -> bytes:
    """Write tensors in the order given, as the library would not: an odd one may come first."""
    names = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
    ours = {"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16"}
    entries = tuple(
        Entry(name, ours.get(names[a.dtype], names[a.dtype]), a.shape, a.nbytes) for name, a in tensors.items()
    )
    return encode_header(entries, metadata or {}) + b"".join(a.tobytes() for a in tensors.values())


def parse(body: bytes) -> tuple[dict[str, Array], Contents]:
    contents = read_header(body, elements_limit=2**33)
    assert contents is not None
    found, start = {}, contents.data_offset
    for entry in contents.entries:
        dtype = DTYPES.get(entry.dtype, entry.dtype)
        data = body[start : start + entry.nbytes]
        found[entry.name] = np.frombuffer(data, np.dtype(dtype)).reshape(entry.shape)
        start += entry.nbytes
    assert start == len(body)
    return found, contents


def post(client: httpx.Client, body: bytes, accept: str | None = None, kind: str = SAFETENSORS, **query: Any) -> Any:
    headers = {"Content-Type": kind, **({"Accept": accept} if accept else {})}
    params = {"radius": 2, **query} if not {"sparsity", "groups"} & query.keys() else query
    return client.post("/v1/project", params=params, content=body, headers=headers)


def npy(array: Array) -> bytes:
    body = io.BytesIO()
    np.save(body, array, allow_pickle=False)
    return body.getvalue()


def check(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.content[:500]
    problem: dict[str, Any] = answer.json()
    assert problem["code"] == code
    return problem


@pytest.fixture(scope="module")
def weights() -> dict[str, Array]:
    return {
        "flags": np.array([1, 2, 3], np.int8),  # leaves what follows unaligned
        "encoder.0.weight": noise(60, 40),
        "encoder.0.bias": noise(40),
        "encoder.1.weight": noise(20, 30, dtype=np.float64),
        "head": noise(8, 4, 3, 3, dtype=ml_dtypes.bfloat16),
        "steps": np.array(7, np.int64),
        "empty": np.empty((0, 5), np.float32),
    }


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_projects_what_the_norm_fits_and_keeps_the_rest(
    client: httpx.Client, weights: dict[str, Array], engine: str
) -> None:
    answer = post(client, tensors_body(weights, {"format": "pt", "who": "ünï"}), engine=engine)
    assert answer.status_code == 200, answer.content
    assert answer.headers["content-type"] == SAFETENSORS
    found, contents = parse(answer.content)
    assert contents.metadata == {"format": "pt", "who": "ünï"}
    assert list(found) == list(weights)
    for name in ("flags", "encoder.0.bias", "steps", "empty"):
        np.testing.assert_array_equal(found[name], weights[name])
    for name in ("encoder.0.weight", "encoder.1.weight", "head"):
        np.testing.assert_array_equal(found[name], nk.project(weights[name], "l1,linf", 2.0))
        assert found[name].dtype == weights[name].dtype
    timing = json.loads(answer.headers["x-normtree-timing"])
    assert timing["tensors_projected"] == 4
    assert [one["name"] for one in timing["tensors"]] == ["encoder.0.weight", "encoder.1.weight", "head", "empty"]
    assert timing["wall_ms"] == pytest.approx(sum(one["wall_ms"] for one in timing["tensors"]))


def test_what_the_library_writes_and_reads(client: httpx.Client) -> None:
    given = {"a": noise(30, 20), "b": noise(10, 20)}
    found = load(post(client, save(given, {"k": "v"})).content)
    for name, y in given.items():
        np.testing.assert_array_equal(found[name], nk.project(y, "l1,linf", 2.0))


def test_pattern_selects_by_whole_names(client: httpx.Client, weights: dict[str, Array]) -> None:
    found, _ = parse(post(client, tensors_body(weights), tensors=r"encoder\.\d\.weight").content)
    np.testing.assert_array_equal(found["head"], weights["head"])
    assert (found["encoder.1.weight"] != weights["encoder.1.weight"]).any()


@pytest.mark.parametrize(
    ("query", "pointer", "message"),
    [
        ({"tensors": "encoder"}, "tensors", "of the body's 7 tensors none has a name that the pattern matches"),
        ({"tensors": "("}, "tensors", "tensors: wanted a regular expression in the syntax of RE2: missing \\)"),
        ({"tensors": "(?=a)"}, "tensors", "RE2"),
        ({"norm": "l1,l1,l1,l1,l1"}, "tensors", "none fits the norm"),
        ({"axes": "1,0,2"}, "tensors", "none fits the norm"),
        ({"groups": 9}, "groups", "'head': groups: wanted 0 to 8"),
    ],
)
def test_selections_that_cannot_be(
    client: httpx.Client, weights: dict[str, Array], query: dict[str, Any], pointer: str, message: str
) -> None:
    problem = check(post(client, tensors_body(weights), **query), 422, "invalid-parameter")
    assert problem["pointer"] == pointer
    assert re.search(message, problem["detail"]), problem["detail"]


def test_a_selected_tensor_has_so_many_axes_at_most(client: httpx.Client) -> None:
    given = {"a": noise(2, 2), "deep": noise(*[1] * 9)}
    problem = check(post(client, tensors_body(given), tensors="deep"), 422, "invalid-tensor")
    assert problem["detail"].startswith("tensor 'deep': at most 8 axes are accepted, got 9")
    found, _ = parse(post(client, tensors_body(given), tensors="a").content)
    np.testing.assert_array_equal(found["deep"], given["deep"])


def test_selected_tensors_must_be_projectable(client: httpx.Client, weights: dict[str, Array]) -> None:
    problem = check(post(client, tensors_body(weights), tensors="steps"), 422, "invalid-tensor")
    assert problem["detail"] == "tensor 'steps': dtype: float64, float32, float16, bfloat16 can be projected, got I64"


@pytest.mark.parametrize("pattern", ["(a*)*b", "(a|aa)+$", "(.*.*.*)*x", "((((a{0,9}){0,9}){0,9}){0,9})*b"])
def test_no_pattern_is_slow(client: httpx.Client, pattern: str) -> None:
    given = {"a" * 500 + str(i): noise(2, 2) for i in range(50)}
    answer = post(client, tensors_body(given), tensors=pattern)
    check(answer, 422, "invalid-parameter")  # a pattern that tries all ways would be at it for years


def test_element_that_is_not_finite_is_named(client: httpx.Client) -> None:
    y = noise(6, 7)
    y[2, 3] = np.nan
    problem = check(post(client, tensors_body({"good": noise(3, 3), "bad": y})), 422, "invalid-tensor")
    assert problem["detail"].startswith("'bad': tensor: element [2, 3] is nan")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_every_dtype_end_to_end(client: httpx.Client, dtype: Any) -> None:
    y = noise(50, 30, dtype=dtype)
    found, _ = parse(post(client, tensors_body({"w": y}), sparsity=0.5).content)
    np.testing.assert_array_equal(found["w"], nk.project(y, "l1,linf", sparsity=0.5))
    assert found["w"].dtype == y.dtype


def test_formats_in_and_out(client: httpx.Client) -> None:
    y = noise(9, 5)
    x = nk.project(y, "l1,linf", 2.0)
    to_tensors = post(client, npy(y), SAFETENSORS, NPY)
    np.testing.assert_array_equal(parse(to_tensors.content)[0]["y"], x)
    to_npy = post(client, tensors_body({"w": y}), NPY)
    np.testing.assert_array_equal(np.load(io.BytesIO(to_npy.content)), x)
    same = post(client, tensors_body({"w": y}), "text/html, */*;q=0.1", "application/x-safetensors")
    assert same.headers["content-type"] == "application/x-safetensors"


def test_npy_cannot_hold_everything(client: httpx.Client, weights: dict[str, Array]) -> None:
    for body, why in (
        (tensors_body(weights), "7 tensors are written as"),
        (tensors_body({"w": noise(3, 3, dtype=ml_dtypes.bfloat16)}), "bfloat16 is written as"),
    ):
        assert why in check(post(client, body, NPY), 406, "not-acceptable")["detail"]
    problem = check(post(client, npy(noise(3, 3)), NPY, NPY, output="compact"), 406, "not-acceptable")
    assert "a compact form is written as" in problem["detail"]


@pytest.mark.parametrize(
    ("shape", "axes", "short"),
    [((200, 30), "0,1", (20, 30)), ((30, 200), "1,0", (30, 20)), ((40, 5, 6), "0.1,2", (20, 6))],
)
def test_compact(client: httpx.Client, shape: tuple[int, ...], axes: str, short: tuple[int, ...]) -> None:
    y = noise(*shape)
    answer = post(client, npy(y), kind=NPY, output="compact", axes=axes, sparsity=0.9)
    assert answer.headers["content-type"] == SAFETENSORS
    found, contents = parse(answer.content)
    assert list(found) == ["index", "shape", "values"]
    assert found["values"].shape == short
    outermost = json.loads(contents.metadata["normtree.axes"])["y"]
    x = expand(found["index"], found["values"], tuple(found["shape"]), outermost)
    np.testing.assert_array_equal(x, nk.project(y, "l1,linf", sparsity=0.9, axes=axes))
    assert len(answer.content) < 0.15 * y.nbytes + 1000


def test_compact_beside_tensors_that_pass_through(client: httpx.Client, weights: dict[str, Array]) -> None:
    found, contents = parse(
        post(client, tensors_body(weights), tensors="encoder.0.weight|head", output="compact", groups=3).content
    )
    np.testing.assert_array_equal(found["flags"], weights["flags"])
    outermost = json.loads(contents.metadata["normtree.axes"])
    for name in ("encoder.0.weight", "head"):
        index, values, whole = (found[f"{name}.{part}"] for part in ("index", "values", "shape"))
        x = expand(index, values, tuple(whole), outermost[name])
        np.testing.assert_array_equal(x, nk.project(weights[name], "l1,linf", groups=3))
    clash = tensors_body({"w": noise(3, 3), "w.index": noise(3)})
    check(post(client, clash, output="compact"), 422, "invalid-parameter")


def test_groups_asked_and_left_are_told(client: httpx.Client) -> None:
    tied = np.repeat(np.array([[5.0], [3.0], [3.0], [1.0]]), 6, axis=1)
    for groups, left in ((1, 1), (2, 1), (4, 4)):
        answer = post(client, npy(tied), kind=NPY, certificate=1, groups=groups)
        timing, told = (json.loads(answer.headers[f"x-normtree-{each}"]) for each in ("timing", "certificate"))
        assert (timing["groups_asked"], timing["groups_left"], timing["warning"]) == (groups, left, "")
        assert (told["groups_asked"], told["groups"][0] - told["zero_groups"][0]) == (groups, left)
    none = json.loads(post(client, npy(np.ones((4, 6))), kind=NPY, groups=3).headers["x-normtree-timing"])
    assert (none["groups_asked"], none["groups_left"]) == (3, 0)
    assert none["warning"].startswith("no group is left of the 3 asked for")
    several = tensors_body({"a": tied, "b": np.ones((4, 6))})
    whole = json.loads(post(client, several, groups=2).headers["x-normtree-timing"])
    assert (whole["groups_asked"], whole["groups_left"]) == (4, 1)
    assert whole["warning"].startswith("b: no group is left of the 2 asked for")
    assert [(one["groups_asked"], one["groups_left"]) for one in whole["tensors"]] == [(2, 1), (2, 0)]
    together = post(client, several, groups=2, scope="global", certificate=1)
    assert json.loads(together.headers["x-normtree-certificate"])["groups_asked"] == 2
    assert json.loads(together.headers["x-normtree-timing"])["groups_left"] == 1


@pytest.mark.parametrize("output", ["dense", "compact"])
def test_axes_seen_as_several(client: httpx.Client, output: str) -> None:
    y = noise(24, 10)
    wanted = nk.project(y.reshape(6, 4, 10), "l1,linf,l2", groups=2, axes="2,0,1").reshape(y.shape)
    query: dict[str, Any] = {
        "split": "0:6", "norm": "l1,linf,l2", "axes": "2,0,1", "groups": 2, "output": output,
    }  # fmt: skip
    answer = post(client, tensors_body({"a": y, "b": noise(3)}), tensors="a", certificate=1, **query)
    found, contents = parse(answer.content)
    if output == "compact":
        axes, split = (json.loads(contents.metadata[f"normtree.{name}"])["a"] for name in ("axes", "split"))
        assert (axes, split, found["a.shape"].tolist()) == ([2], "0:6", [24, 10])
        found["a"] = expand(found["a.index"], found["a.values"], found["a.shape"].tolist(), axes, split)
    np.testing.assert_array_equal(found["a"], wanted)
    told = json.loads(answer.headers["x-normtree-certificate"])
    assert told["groups"] == [10, 60, 240]
    fortran = io.BytesIO()
    np.save(fortran, np.asfortranarray(y))
    problem = check(post(client, fortran.getvalue(), kind=NPY, split="0:6", radius=1), 422, "invalid-parameter")
    assert problem["pointer"] == "split"
    for split in ("0:7", "0", "5:2"):
        problem = check(post(client, npy(y), kind=NPY, split=split, radius=1), 422, "invalid-parameter")
        assert problem["pointer"] == "split"
    y[13, 7] = np.inf
    problem = check(post(client, npy(y), kind=NPY, split="0:6", radius=1), 422, "invalid-tensor")
    assert "element [13, 7] is inf" in problem["detail"]


def test_groups_without_elements_take_no_memory(client: httpx.Client) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**32, 0)})
    for query in ({"radius": 1}, {"groups": 5, "output": "compact"}, {"sparsity": 0.5, "certificate": 1}):
        answer = post(client, header.getvalue(), kind=NPY, **query)
        assert answer.status_code == 200, answer.text
    told = json.loads(answer.headers["x-normtree-certificate"])
    assert (told["groups"], told["feasible"]) == ([2**32, 0], True)
    many = tensors_body({"a": noise(3, 4), "none": np.empty((2**22, 0), np.float32)})
    problem = check(post(client, many, scope="global", radius=1), 422, "invalid-tensor")
    assert (problem["pointer"], problem["limit"]) == ("shape", 2**20)


@pytest.mark.parametrize("exact", [False, True])
def test_certificate(client: httpx.Client, exact: bool) -> None:
    y = noise(40, 30)
    answer = post(client, npy(y), kind=NPY, certificate=1, exact=int(exact), radius=3)
    x = np.load(io.BytesIO(answer.content))
    told = json.loads(answer.headers["x-normtree-certificate"])
    assert (told["feasible"], told["tight"]) == (True, True)
    assert 0 <= told["shortfall"] < 1e-7
    assert told["radius"] == 3.0
    assert (told["duality_gap"] < 1e-9) is exact
    assert told["sha256_before"] == hashlib.sha256(y.tobytes()).hexdigest()
    assert told["sha256_after"] == hashlib.sha256(x.tobytes()).hexdigest()
    np.testing.assert_array_equal(x, nk.project(y, "l1,linf", 3.0, exact=exact))


def test_digests_are_the_tensors_whatever_they_travel_in(client: httpx.Client) -> None:
    y = noise(12, 5)
    bodies = [(npy(y), NPY), (npy(np.asfortranarray(y)), NPY), (npy(y.astype(">f4")), NPY)]
    bodies.append((tensors_body({"w": y}), SAFETENSORS))
    told = {post(client, body, kind=kind, certificate=1).headers["x-normtree-certificate"] for body, kind in bodies}
    assert len(told) == 1


def test_certificates_of_several_are_in_the_metadata(client: httpx.Client) -> None:
    given = {"a": noise(30, 20), "b": noise(10, 20)}
    _, contents = parse(post(client, tensors_body(given), certificate=1).content)
    told = json.loads(contents.metadata["normtree.certificate"])
    assert {name: one["norm_before"] for name, one in told.items()} == {
        name: nk.norm(y, "l1,linf") for name, y in given.items()
    }


GLOBAL: list[dict[str, Any]] = [
    {"norm": "l1,linf", "radius": 9.0}, {"norm": "l1,l2", "sparsity": 0.8}, {"norm": "l1,l1", "groups": 7},
    {"norm": "l2,l1", "radius": 3.3}, {"norm": "linf,l1", "radius": 0.7}, {"norm": "l1,linf", "radius": 1e6},
]  # fmt: skip


@pytest.mark.parametrize("output", ["dense", "compact"])
@pytest.mark.parametrize("asked", GLOBAL, ids=str)
def test_one_ball_for_all(client: httpx.Client, asked: dict[str, Any], output: str) -> None:
    """Tensors with equally long rows, laid one under the other, are one tensor; that is what they must become."""
    given = {"a": noise(30, 20), "kept": noise(5), "b": 3 * noise(10, 20), "none": np.empty((0, 20), np.float32)}
    answer = post(client, tensors_body(given), scope="global", certificate=1, output=output, **asked)
    assert answer.status_code == 200, answer.content
    found, contents = parse(answer.content)
    if output == "compact":
        parts = {name: [found.pop(f"{name}.{part}") for part in ("index", "values", "shape")] for name in "ab"}
        found |= {name: expand(index, values, tuple(whole), [0]) for name, (index, values, whole) in parts.items()}
    norm, goal = asked["norm"], {name: value for name, value in asked.items() if name != "norm"}
    stacked = np.concatenate([given["a"], given["b"]])
    expected = nk.project(stacked, norm, **goal)
    np.testing.assert_array_equal(np.concatenate([found["a"], found["b"]]), expected)
    np.testing.assert_array_equal(found["kept"], given["kept"])
    timing = json.loads(answer.headers["x-normtree-timing"])
    assert timing["radius"] == goal.get("radius", timing["radius"])
    assert timing["shape"] == [stacked.size]
    assert timing["tensors"] == [{"name": name} for name in ("a", "b", "none")]
    whole = json.loads(answer.headers["x-normtree-certificate"])
    assert json.loads(contents.metadata["normtree.certificate.global"]) == whole
    assert (whole["feasible"], whole["tight"]) == (True, True)
    assert whole["shortfall"] == pytest.approx(
        1 - whole["norm_after"] / min(whole["radius"], whole["norm_before"]), abs=1e-15
    )
    assert whole["radius"] == timing["radius"]
    assert whole["norm_before"] == pytest.approx(nk.norm(stacked, norm), rel=1e-14)  # the root's own order of groups
    assert whole["norm_after"] == pytest.approx(nk.norm(expected, norm), rel=1e-14)
    assert whole["distance"] == pytest.approx(np.linalg.norm(stacked.astype(float) - expected))
    assert (whole["groups"], whole["zero_groups"]) == (40, (~expected.any(axis=1)).sum())
    each = json.loads(contents.metadata["normtree.certificate"])
    for name in ("a", "b"):
        assert each[name]["norm_before"] == nk.norm(given[name], norm)
        assert each[name]["norm_after"] == each[name]["radius"] == nk.norm(found[name], norm)


def test_one_ball_with_axes_of_each_tensors_own_and_types_of_its_own(client: httpx.Client) -> None:
    given = {"a": noise(30, 20), "b": noise(10, 40, dtype=np.float64), "c": noise(6, 8, dtype=ml_dtypes.bfloat16)}
    bodies = [tensors_body(given), tensors_body(dict(reversed(given.items())))]
    answers = [post(client, body, scope="global", axes="1,0", sparsity=0.75, certificate=1) for body in bodies]
    one, other = (parse(answer.content)[0] for answer in answers)
    for name, y in given.items():
        assert one[name].dtype == y.dtype
        np.testing.assert_array_equal(one[name], other[name])
    alive = [(x != 0).any(axis=0).sum() for x in one.values()]
    assert 0 < sum(alive) <= 17  # of 68 columns
    assert json.loads(answers[0].headers["x-normtree-certificate"])["feasible"] is True


@pytest.mark.parametrize("exact", [0, 1])
def test_one_ball_of_one_tensor_is_its_own(client: httpx.Client, exact: int) -> None:
    y = noise(30, 20)
    answer = post(client, npy(y), kind=NPY, scope="global", exact=exact, certificate=1)
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), nk.project(y, "l1,linf", 2.0, exact=bool(exact)))
    assert json.loads(answer.headers["x-normtree-certificate"])["radius"] == 2.0
    assert (
        "normtree.certificate.global"
        not in parse(post(client, tensors_body({"a": y}), scope="global").content)[1].metadata
    )


@pytest.mark.parametrize(
    ("asked", "pointer", "message"),
    [
        ({"norm": "l1"}, "norm", "one root for several tensors wants two levels or more, got one"),
        ({"exact": 1}, "exact", "no exact projection of several tensors together is known"),
        ({"groups": 41}, "groups", "wanted 0 to 40, the outermost groups there are, got 41"),
        ({"norm": "l2,linf", "sparsity": 0.5}, "sparsity", "only an outermost l1 level makes groups vanish, got l2"),
        ({"scope": "all"}, "scope", "scope must be tensor .* or global .*, got all"),
    ],
)
def test_what_has_no_common_ball(client: httpx.Client, asked: dict[str, Any], pointer: str, message: str) -> None:
    body = tensors_body({"a": noise(30, 20), "b": noise(10, 20)})
    problem = check(post(client, body, **{"scope": "global", **asked}), 422, "invalid-parameter")
    assert problem["pointer"] == pointer
    assert re.search(message, problem["detail"])


def test_a_bad_tensor_under_one_root_is_told_by_its_name(client: httpx.Client) -> None:
    bad = noise(4, 5)
    bad[2, 3] = np.inf
    answer = post(client, tensors_body({"a": noise(3, 4), "b": bad}), scope="global")
    assert "'b': tensor: element [2, 3] is inf" in check(answer, 422, "invalid-tensor")["detail"]


def test_deadline_of_the_client(client: httpx.Client) -> None:
    answer = post(client, npy(noise(2048, 2048)), kind=NPY, deadline_ms=0.001)
    problem = check(answer, 504, "deadline-exceeded")
    assert problem["limit"] == 1e-6


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda body: body[:-1], 400),
        (lambda body: body + b"\0", 400),
        (lambda body: (2**21).to_bytes(8, "little") + body[8:], 413),
        (lambda body: b"\x93NUMPY" + body[6:], 413),
        (lambda body: body.replace(b'"F32"', b'"F99"'), 400),
    ],
)
def test_bodies_that_are_broken(client: httpx.Client, change: Any, status: int) -> None:
    answer = post(client, change(tensors_body({"w": noise(3, 3)})))
    assert answer.status_code == status, answer.text
    assert answer.headers["connection"] == "close"
