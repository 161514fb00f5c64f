"""What users send: requests with the answers that are right, and with the errors that are."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from json import dumps
from urllib.parse import urlencode

import numpy as np

import normtree_kernels as nk

NPY, JSON = "application/x-npy", "application/json"
RADIUS_SHARE = 0.1


@dataclass(frozen=True)
class Flow:
    """One kind of request.

    Args:
        name: for reports.
        path: with the query.
        body: of the request.
        status: that is right.
        answer: the body that is right; None where the status says all.
        weight: how often users send it, relative to the others.
        content_type: of the request.
    """

    name: str
    path: str
    body: bytes
    status: int = 200
    answer: bytes | None = None
    weight: int = 1
    content_type: str = NPY

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Content-Type": self.content_type}

    def is_right(self, status: int, body: bytes) -> bool:
        """Tell whether an answer is the one that this request must get."""
        return status == self.status and (self.answer is None or body == self.answer)


def npy(array: np.ndarray) -> bytes:
    """An array as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def projection(name: str, shape: tuple[int, ...], norm: str, weight: int, **query: object) -> Flow:
    """A projection of noise, and the library's own answer."""
    y = np.random.default_rng(len(name)).standard_normal(shape, dtype=np.float32)
    radius = RADIUS_SHARE * nk.norm(y, norm)
    path = "/v1/project?" + urlencode({"norm": norm, "radius": repr(radius), **query})
    return Flow(name, path, npy(y), answer=npy(nk.project(y, norm, radius)), weight=weight)


@cache
def small() -> Flow:
    """64 KiB, the latency-bound case."""
    return projection("small", (128, 128), "l1,linf", weight=60)


@cache
def large() -> Flow:
    """16 MiB, the bandwidth-bound case."""
    return projection("large", (512, 8192), "l1,linf", weight=4)


@cache
def mixed() -> tuple[Flow, ...]:
    """Small and large tensors on both engines, and requests and jobs that are wrong in one way each."""
    y = npy(np.ones((8, 8), np.float32))
    bad = np.ones((8, 8), np.float32)
    bad[3, 5] = np.nan
    wrong = {
        "negative radius": ("/v1/project?radius=-1", y, 422),
        "unknown norm": ("/v1/project?radius=1&norm=l1,l3", y, 422),
        "NaN": ("/v1/project?radius=1", npy(bad), 422),
        "integers": ("/v1/project?radius=1", npy(np.ones((8, 8), np.int64)), 422),
        "no .npy": ("/v1/project?radius=1", b"\x00" * 200, 400),
        "cut short": ("/v1/project?radius=1", y[:-7], 400),
    }
    rule = {"tensors": ".*", "norm": "l1,linf", "sparsity": 0.5}
    jobs = {
        "job on others' files": {"input": "/etc", "output": "etc", "rules": [rule]},
        "job without rules": {"input": "in", "output": "out", "rules": []},
    }
    return (
        small(),
        projection("small, l1,l1", (96, 200), "l1,l1", weight=15),
        projection("medium on Ray", (256, 1024), "l1,l2", weight=10, engine="ray"),
        projection("medium on threads", (256, 1024), "l1,l2", weight=10, engine="inline"),
        large(),
        projection("large on Ray", (512, 8192), "l1,l1", weight=2, engine="ray"),
        *(Flow(name, path, body, status) for name, (path, body, status) in wrong.items()),
        *(Flow(name, "/v1/jobs", dumps(recipe).encode(), 422, content_type=JSON) for name, recipe in jobs.items()),
    )
