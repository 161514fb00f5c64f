"""A body format is two files: a module of its own, and the registry's line, in whose place a call stands here."""

import importlib.util
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

import normtree_kernels as nk
from normtree.engine.projector import Projector
from normtree.http.app import create_app
from normtree.http.body_formats.npy_format import NpyFormat
from normtree.http.body_formats.registry import FORMATS
from normtree.http.server import server_config
from normtree.settings import Settings

RAW, NPY = "application/x-float32", "application/x-npy"
Y = np.random.default_rng(0).standard_normal((40, 30), np.float32)
X = nk.project(Y, "l1,linf", radius=5.0)


def raw_floats() -> Any:
    spec = importlib.util.spec_from_file_location("raw_floats", Path(__file__).with_name("raw_floats.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.RawFloats()


@pytest.fixture(scope="module")
def client(
    projector: Projector, run: Callable[[uvicorn.Server], AbstractContextManager[tuple[str, int]]]
) -> Iterator[httpx.Client]:
    settings = Settings(inline_only=True)
    app = create_app(projector, settings, formats=FORMATS.plus(raw_floats()))
    with (
        run(uvicorn.Server(server_config(app, settings))) as (host, port),
        httpx.Client(base_url=f"http://{host}:{port}") as found,
    ):
        yield found


def post(client: httpx.Client, body: bytes, kind: str = RAW, accept: str | None = None, **query: Any) -> Any:
    headers = {"Content-Type": kind, **({"Accept": accept} if accept else {})}
    return client.post("/v1/project", content=body, params={"radius": 5.0, **query}, headers=headers)


def test_a_new_format_is_read_and_written(client: httpx.Client) -> None:
    answer = post(client, Y.tobytes(), shape="40,30")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, RAW)
    assert answer.content == X.tobytes()
    assert "X-Normtree-Timing" in answer.headers


def test_it_is_turned_into_others_and_others_into_it(client: httpx.Client) -> None:
    found = post(client, Y.tobytes(), accept=NPY, shape="40,30")
    np.testing.assert_array_equal(np.load(io.BytesIO(found.content)), X)
    body = io.BytesIO()
    np.save(body, Y)
    assert post(client, body.getvalue(), NPY, accept=RAW).content == X.tobytes()
    compact = post(client, body.getvalue(), NPY, accept=RAW, output="compact")
    assert (compact.status_code, compact.json()["code"]) == (406, "not-acceptable")


@pytest.mark.parametrize(
    ("query", "status", "pointer"),
    [
        ({}, 422, "shape"),
        ({"shape": "40,x"}, 422, "shape"),
        ({"shape": ",".join("1" * 9)}, 422, "shape"),
        ({"shape": "40,31"}, 400, "body"),
        ({"shape": "40,29"}, 400, "body"),
        ({"shape": "40,30", "shapes": "1"}, 422, "shapes"),
    ],
)
def test_what_is_wrong_with_it_is_told(client: httpx.Client, query: dict[str, str], status: int, pointer: str) -> None:
    answer = post(client, Y.tobytes(), **query)
    assert (answer.status_code, answer.json()["pointer"]) == (status, pointer)


def test_its_own_parameter_is_for_no_other(client: httpx.Client) -> None:
    body = io.BytesIO()
    np.save(body, Y)
    answer = post(client, body.getvalue(), NPY, shape="40,30")
    assert (answer.status_code, answer.json()["pointer"]) == (422, "shape")


def test_it_is_described(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()["paths"]["/v1/project"]["post"]
    assert RAW in described["requestBody"]["content"]
    assert "shape" in {parameter["name"] for parameter in described["parameters"]}
    other = post(client, b"", "text/csv")
    assert RAW in other.headers["Accept-Post"]


def test_a_media_type_is_of_one_format() -> None:
    with pytest.raises(ValueError, match="a media type of several"):
        FORMATS.plus(NpyFormat())
