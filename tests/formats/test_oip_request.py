"""The reader of inference requests: what it takes, what it refuses and with which words."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st

from normtree.errors import InvalidParameter, InvalidTensor, MalformedBody, NormtreeError
from normtree.formats.contents import Entry
from normtree.formats.oip import InferRequest, Region, read_request

BINARY = {"binary_data_size": 24}
REGION = {"shared_memory_region": "r", "shared_memory_byte_size": 24}


def read(text: bytes | str) -> InferRequest:
    return read_request(text.encode() if isinstance(text, str) else text, rank_limit=8, elements_limit=2**33)


def tensor(**given: Any) -> dict[str, Any]:
    return {"name": "y", "shape": [2, 3], "datatype": "FP32", "parameters": BINARY, **given}


def body(*inputs: Any, **given: Any) -> str:
    return json.dumps({"inputs": list(inputs) or [tensor()], **given})


def test_least() -> None:
    found = read(body())
    assert found == InferRequest(None, {}, None, Entry("y", "float32", (2, 3), 24), None, None, False, None)
    assert found.binary_bytes == 24


def test_all_given() -> None:
    found = read(
        body(
            tensor(parameters={**REGION, "shared_memory_offset": 64}, datatype="FP32"),
            id="7",
            parameters={"radius": 2.5, "norm": "l1,l2", "timeout": 1500, "priority": 3, "triton_x": 1},
            outputs=[{"name": "x", "parameters": {"binary_data": False, **REGION}}],
            unknown={"kept": "out"},
        )
    )
    assert (found.id, found.timeout_us, found.binary_output) == ("7", 1500, False)
    assert found.parameters == {"radius": 2.5, "norm": "l1,l2"}
    assert (found.source, found.target) == (Region("r", 64, 24), Region("r", 0, 24))
    assert found.binary_bytes == 0


@pytest.mark.parametrize("data", [[1, 2.5, 3, 4, 5, 6], [[1, 2.5, 3], [4, 5, 6]]])
def test_data_flat_and_nested(data: list[Any]) -> None:
    found = read(body(tensor(parameters={}, data=data)))
    assert found.data == (1.0, 2.5, 3.0, 4.0, 5.0, 6.0)
    assert found.binary_bytes == 0


@pytest.mark.parametrize(
    ("outputs", "parameters", "binary"),
    [
        (None, {}, False),
        ([], {"binary_data_output": True}, True),
        ([{"name": "x"}], {"binary_data_output": True}, True),
        ([{"name": "x", "parameters": {"binary_data": False}}], {"binary_data_output": True}, False),
        ([{"name": "x", "parameters": {"binary_data": True}}], {}, True),
    ],
)
def test_both_ways_of_asking_for_binary(outputs: Any, parameters: dict[str, bool], binary: bool) -> None:
    assert read(body(outputs=outputs, parameters=parameters)).binary_output is binary


@pytest.mark.parametrize(
    ("datatype", "dtype", "size"), [("FP64", "float64", 48), ("FP16", "float16", 12), ("BF16", "bfloat16", 12)]
)
def test_datatypes(datatype: str, dtype: str, size: int) -> None:
    entry = read(body(tensor(datatype=datatype, parameters={"binary_data_size": size}))).entry
    assert (entry.dtype, entry.nbytes) == (dtype, size)


@pytest.mark.parametrize("binary", [True, False])
def test_agrees_with_triton_on_what_it_writes(binary: bool) -> None:
    y = np.arange(6, dtype=np.float32).reshape(2, 3)
    given_input = triton.InferInput("y", list(y.shape), "FP32")
    given_input.set_data_from_numpy(y, binary_data=binary)
    wanted = [triton.InferRequestedOutput("x", binary_data=binary)]
    written, length = triton.InferenceServerClient.generate_request_body(
        [given_input], outputs=wanted, request_id="a", parameters={"radius": 2.0}, timeout=7
    )
    found = read(written[:length] if binary else written)
    assert (found.id, found.timeout_us, found.parameters) == ("a", 7, {"radius": 2.0})
    assert found.binary_output is binary
    assert found.data == (None if binary else tuple(y.reshape(-1).tolist()))


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        ("", "body"),
        ('{"inputs": [], "inputs": []}', "body"),
        ('{"id": NaN}', "body"),
        ("[" * 100_000, "body"),
        ("[]", "request"),
        (body(id=7), "id"),
        (body(parameters=[]), "parameters"),
        (body(parameters={"radius": [1]}), "parameters"),
        (body(parameters={"binary_data_output": 1}), "binary_data_output"),
        ("{}", "inputs"),
        (body(tensor(), tensor()), "inputs"),
        (body(7), "inputs"),
        (body(tensor(datatype=None)), "inputs[0].datatype"),
        (body(tensor(shape=6)), "inputs[0].shape"),
        (body(tensor(shape=[2.0, 3])), "inputs[0].shape"),
        (body(tensor(shape=[True, 6])), "inputs[0].shape"),
        (body(tensor(parameters={})), "inputs[0]"),
        (body(tensor(data=[1])), "inputs[0]"),
        (body(tensor(parameters={**BINARY, **REGION})), "inputs[0]"),
        (body(tensor(parameters={"binary_data_size": 23})), "inputs[0].parameters.binary_data_size"),
        (body(tensor(parameters={"binary_data_size": True})), "inputs[0].parameters.binary_data_size"),
        (body(tensor(parameters={**REGION, "shared_memory_offset": -1})), "inputs[0].parameters"),
        (body(tensor(parameters={"shared_memory_region": "r"})), "inputs[0].parameters"),
        (body(tensor(parameters={}, data=[1] * 5)), "inputs[0].data"),
        (body(tensor(parameters={}, data=["1"] * 6)), "inputs[0].data"),
        (body(tensor(parameters={}, data=[True] * 6)), "inputs[0].data"),
        (body(tensor(parameters={}, data=[[[1, 2, 3]], [[4, 5, 6]]])), "inputs[0].data"),
        (body(outputs={}), "outputs"),
        (body(outputs=[{"name": "x", "parameters": {"binary_data": "yes"}}]), "outputs[0].parameters.binary_data"),
    ],
)
def test_malformed(text: str, pointer: str) -> None:
    with pytest.raises(MalformedBody) as caught:
        read(text)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize(
    ("given_tensor", "message"),
    [
        (tensor(datatype="INT32"), "FP64, FP32, FP16, BF16 are accepted, got INT32"),
        (tensor(shape=[-1, 6]), "must be >= 0"),
        (tensor(shape=[1] * 9), "at most 8 axes are accepted, got 9"),
        (tensor(shape=[2**32, 2**32]), "at most 8589934592 elements"),
        (tensor(shape=[0, 2**62, 2**62]), "at most 8589934592 elements"),
        (tensor(parameters={}, data=[10**400] * 6), "beyond float64"),
    ],
)
def test_tensors_that_are_not_taken(given_tensor: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidTensor, match=message):
        read(body(given_tensor))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (body(tensor(name="w")), "there is only y, got w"),
        (body(outputs=[{"name": "z"}]), "there is only x, got z"),
        (body(outputs=[{"name": "x", "parameters": {"classification": 3}}]), "not for projections"),
        (body(tensor(datatype="FP16", parameters={}, data=[1] * 6)), "float16 is taken in binary only"),
        (body(parameters={"timeout": "1"}), "timeout must be microseconds"),
        (body(tensor(parameters={**REGION, "shared_memory_byte_size": 25})), "24 bytes are wanted .* got 25"),
        (
            body(outputs=[{"name": "x", "parameters": {**REGION, "shared_memory_byte_size": 23}}]),
            "24 bytes are wanted .* got 23",
        ),
    ],
)
def test_what_we_cannot_do(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        read(text)


MEMBERS = st.sampled_from(["id", "parameters", "inputs", "outputs", "name", "shape", "datatype", "data"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.sampled_from(["y", "x", "FP32"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_random_requests_raise_only_our_errors(found: Any) -> None:
    with suppress(NormtreeError):
        read(json.dumps(found))


@given(st.dictionaries(st.sampled_from(list(tensor())), JSON))
def test_random_tensors_raise_only_our_errors(changes: dict[str, Any]) -> None:
    with suppress(NormtreeError):
        read(body(tensor(**changes)))
