"""Each parser of bodies against any bytes: a typed error or a result, and never a result that others do not see.

pytest runs each target for a few seconds on mutated bodies. With atheris, whose mutations follow coverage,

    python tests/fuzz/test_parsers.py npy -max_total_time=120

runs one as long as one likes; `make fuzz` runs them all.
"""

import importlib
import io
import json
import sys
import warnings
from collections.abc import Callable
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from normtree.errors import NormtreeError

BODIES = "normtree.http.bodies"
LIMITS = {"rank_limit": 8, "elements_limit": 2**33}


def parser(name: str) -> Any:
    """Import a parser when it is first used, so that atheris can watch its branches."""
    return importlib.import_module(f"{BODIES}.{name}")


def check_npy(data: bytes) -> None:
    """What is accepted is what NumPy reads, without pickle."""
    try:
        contents = parser("npy").read_header(data, **LIMITS)
    except NormtreeError:
        return
    if contents is None:
        return
    (entry,) = contents.entries
    stream = io.BytesIO(data)
    major, _ = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's on headers that Python 2 wrote
        shape, fortran, dtype = read(stream)
    assert stream.tell() == contents.data_offset
    assert (entry.shape, entry.order) == (shape, "F" if fortran else "C")
    assert dtype == np.dtype(entry.dtype).newbyteorder(">" if entry.big_endian else "<")
    assert entry.nbytes == prod(shape) * dtype.itemsize


def check_safetensors(data: bytes) -> None:
    """What is accepted is what the safetensors library reads."""
    try:
        contents = parser("safetensors").read_header(data, elements_limit=LIMITS["elements_limit"])
    except NormtreeError:
        return
    if contents is None or contents.data_offset + contents.data_bytes > 2**20:
        return
    whole = data[: contents.data_offset].ljust(contents.data_offset + contents.data_bytes, b"\0")
    found = dict(safetensors.deserialize(whole))
    assert {entry.name: (entry.shape, entry.nbytes) for entry in contents.entries} == {
        name: (tuple(tensor["shape"]), len(tensor["data"])) for name, tensor in found.items()
    }


def check_oip(data: bytes) -> None:
    """What is accepted says what a plain JSON parser reads in it."""
    try:
        request = parser("oip").read_request(data, **LIMITS)
    except NormtreeError:
        return
    plain = json.loads(data)
    (tensor,) = plain["inputs"]
    assert request.entry.shape == tuple(tensor["shape"])
    itemsize = parser("elements").BY_NAME[request.entry.dtype].itemsize
    assert request.entry.nbytes == prod(tensor["shape"]) * itemsize
    assert request.binary_bytes in {0, request.entry.nbytes}
    if request.data is not None:
        assert len(request.data) == prod(tensor["shape"])


def npy(array: Any, version: tuple[int, int]) -> bytes:
    body = io.BytesIO()
    np.lib.format.write_array(body, array, version)
    return body.getvalue()


def oip(**given: Any) -> bytes:
    tensor = {"name": "y", "shape": [2, 3], "datatype": "FP32", **given}
    return json.dumps({"id": "7", "inputs": [tensor], "parameters": {"radius": 2.0, "timeout": 1500}}).encode()


TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = {
    "npy": (
        check_npy,
        (
            npy(np.zeros((2, 3), np.float32), (1, 0)),
            npy(np.zeros((2, 3), ">f8", order="F"), (2, 0)),
            npy(np.zeros((), np.float16), (3, 0)),
        ),
    ),
    "safetensors": (
        check_safetensors,
        (
            safetensors.numpy.save({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.int8)}, {"k": "v"}),
            safetensors.numpy.save({"w": np.zeros((0, 5), np.float16)}),
            safetensors.numpy.save({}),
        ),
    ),
    "oip": (
        check_oip,
        (
            oip(parameters={"binary_data_size": 24}),
            oip(data=[[1, 2, 3], [4, 5, 6.5]]),
            oip(parameters={"shared_memory_region": "r", "shared_memory_byte_size": 24, "shared_memory_offset": 8}),
        ),
    ),
}


def mutated(seeds: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Return bodies that are right but for a few pieces that were replaced, repeated or left out."""
    words = [
        "{",
        "}",
        "[",
        "]",
        ",",
        "'",
        '"',
        "0",
        "-1",
        "9" * 20,
        "\u00a0",
        "\v",
        "null",
        "NaN",
        "\\u0000",
        "\\ud800",
    ]
    piece = st.binary(max_size=6) | st.sampled_from([word.encode("latin-1") for word in words])
    change = st.tuples(st.integers(0, 400), st.integers(0, 8), piece)

    def apply(body: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
        for at, length, new in changes:
            place = at % (len(body) + 1)
            body = body[:place] + new + body[place + length :]
        return body

    return st.builds(apply, st.sampled_from(seeds), st.lists(change, max_size=4)) | st.binary(max_size=200)


@pytest.mark.parametrize("name", TARGETS)
def test_right_bodies_are_read(name: str) -> None:
    check, seeds = TARGETS[name]
    for seed in seeds:
        check(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes(name: str) -> None:
    check, seeds = TARGETS[name]

    @settings(max_examples=max(settings().max_examples, 1500))
    @given(mutated(seeds))
    def hold(data: bytes) -> None:
        check(data)

    hold()


def main() -> None:
    """Fuzz one target by atheris; the arguments behind its name are libFuzzer's."""
    import atheris

    check, seeds = TARGETS[sys.argv.pop(1)]
    with atheris.instrument_imports(include=[BODIES]):
        for name in TARGETS:
            parser(name)
    with TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            check(seed)
            Path(corpus, str(number)).write_bytes(seed)
        atheris.Setup([*sys.argv, corpus], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
