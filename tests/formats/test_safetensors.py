"""The reader of safetensors headers: what it takes, what it refuses, and that the library agrees."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from normtree.errors import BodyTooLarge, InvalidCheckpoint, InvalidTensor, MalformedBody, NormtreeError
from normtree.files.tensor_file import read_file, write_file
from normtree.formats.contents import Contents, Entry
from normtree.formats.elements import BITS, ELEMENTS
from normtree.formats.safetensors import HEADER_LIMIT_BYTES, TENSORS_LIMIT, encode_header, read_header
from normtree.formats.stored import read_stored

TYPES = ("float64", "float32", "float16", "int64", "uint8", "bool")
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SHAPES = st.lists(st.integers(0, 3), max_size=4).map(tuple)


def read(prefix: bytes) -> Contents | None:
    return read_header(prefix, elements_limit=2**33)


def header(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return len(raw).to_bytes(8, "little") + raw


def tensors(**infos: Any) -> bytes:
    return header(json.dumps(infos))


def info(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


@given(
    st.dictionaries(NAMES, st.tuples(st.sampled_from(TYPES), SHAPES), max_size=5),
    st.dictionaries(TEXTS, TEXTS, max_size=3),
)
def test_agrees_with_the_library_on_what_it_writes(
    given_tensors: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str]
) -> None:
    arrays = {name: np.zeros(shape, dtype) for name, (dtype, shape) in given_tensors.items()}
    body = save(arrays, metadata or None)
    found = read(body)
    assert found is not None
    assert found.data_offset + found.data_bytes == len(body)
    assert found.metadata == metadata
    assert {entry.name: (entry.shape, entry.nbytes) for entry in found.entries} == {
        name: (array.shape, array.nbytes) for name, array in arrays.items()
    }


@given(
    st.dictionaries(NAMES, st.tuples(st.sampled_from(["float32", "bfloat16", "I16"]), SHAPES), max_size=5),
    st.dictionaries(TEXTS, TEXTS, max_size=3),
)
def test_writes_what_the_library_reads(
    given_tensors: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str]
) -> None:
    sizes = {"float32": 4, "bfloat16": 2, "I16": 2}
    entries = tuple(
        Entry(name, dtype, shape, int(np.prod(shape, dtype=int)) * sizes[dtype])
        for name, (dtype, shape) in given_tensors.items()
    )
    start = encode_header(entries, metadata)
    assert len(start) % 8 == 0
    total = sum(entry.nbytes for entry in entries)
    found = dict(safetensors.deserialize(start + bytes(total)))
    assert {name: tuple(one["shape"]) for name, one in found.items()} == {e.name: e.shape for e in entries}
    again = read(start)
    assert again is not None
    assert (set(again.entries), again.data_offset, again.metadata) == (set(entries), len(start), metadata)


def test_asks_for_more_until_the_header_is_whole() -> None:
    body = save({"w": np.zeros((3, 4), np.float32)})
    found = read(body)
    assert found is not None
    assert all(read(body[:count]) is None for count in range(found.data_offset))
    assert read(body[: found.data_offset]) == found


def test_entries_come_in_the_order_of_their_bytes() -> None:
    found = read(tensors(b=info(offsets=(8, 16)), a=info(offsets=(0, 8)), e=info(shape=(0,), offsets=(8, 8))))
    assert found is not None
    assert [entry.name for entry in found.entries] == ["a", "e", "b"]


@pytest.mark.parametrize("code", BITS)
def test_the_library_knows_every_type(code: str) -> None:
    nbytes = 24 * BITS[code] // 8
    body = tensors(w=info(code, (24,), (0, nbytes)))
    found = read(body)
    assert found is not None
    assert found.data_bytes == nbytes
    ((_, one),) = safetensors.deserialize(body + bytes(nbytes))
    assert len(one["data"]) == nbytes


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (header(""), "at least 2 bytes"),
        (header(" {}"), "must begin with {"),
        (header("[]"), "must begin with {"),
        (header("{} {}"), "not JSON at character 3"),
        (header("{'a': 1}"), "not JSON"),
        (header(b'{"\xff": 1}'), "not UTF-8 at byte 2"),
        (header('{"\\ud800": 1}'), "half of a surrogate pair"),
        (header('{"__metadata__": {"a": "\\ud800"}}'), "half of a surrogate pair"),
        (header('{"a": NaN}'), "NaN is no number"),
        (header('{"a": ' + "[" * 100_000), "nested too deep"),
        (header('{"a": ' + "9" * 100_000 + "}"), "too many digits"),
        (header('{"__metadata__": {}, "__metadata__": {}}'), "given twice"),
        (header('{"a": {"dtype": "F32", "dtype": "F32"}}'), "given twice"),
        (tensors(__metadata__={"a": 1}), "object of texts"),
        (tensors(__metadata__=[]), "object of texts"),
        (tensors(__metadata__=False), "object of texts"),
        (tensors(a=[]), "dtype, shape and data_offsets are wanted"),
        (tensors(a={"dtype": "F32", "shape": [2]}), "dtype, shape and data_offsets are wanted"),
        (tensors(a=info("F31")), "dtype must be one of F64, F32"),
        (tensors(a=info(["F32"])), "dtype must be one of"),
        (tensors(a=info(shape=2)), "shape must be a list of integers >= 0"),
        (tensors(a=info(shape=(-2,))), "shape must be a list of integers >= 0"),
        (tensors(a=info(shape=(True, 2))), "shape must be a list of integers >= 0"),
        (tensors(a=info(shape=(2.0,))), "shape must be a list of integers >= 0"),
        (tensors(a=info(offsets=(0, 2**64))), "data_offsets must be a list of integers >= 0"),
        (tensors(a=info(offsets=(8, 0))), "a begin and an end not before it"),
        (tensors(a=info(offsets=(0, 8, 8))), "a begin and an end"),
        (tensors(a=info(offsets=(0, 9))), "8 bytes are wanted by its shape, got 9"),
        (tensors(a=info("F4", (3,), (0, 1))), "do not fill whole bytes"),
        (tensors(a=info(offsets=(8, 16))), "the first must begin at 0, got 8"),
        (tensors(a=info(), b=info(offsets=(12, 20))), "a hole before it: it must begin at 8, got 12"),
        (tensors(a=info(), b=info(offsets=(4, 12))), "overlaps the one before: it must begin at 8, got 4"),
        (tensors(a=info(), b=info()), "overlaps"),
    ],
)
def test_refuses_what_is_no_header(body: bytes, message: str) -> None:
    with pytest.raises(MalformedBody, match=message):
        read(body)


def test_refuses_a_long_header_before_it_is_read() -> None:
    assert read(header("{}".ljust(HEADER_LIMIT_BYTES))) == Contents((), 8 + HEADER_LIMIT_BYTES)
    with pytest.raises(BodyTooLarge) as caught:
        read((HEADER_LIMIT_BYTES + 1).to_bytes(8, "little"))
    assert (caught.value.limit, caught.value.got) == (HEADER_LIMIT_BYTES, HEADER_LIMIT_BYTES + 1)
    with pytest.raises(BodyTooLarge, match="it seems to be a pointer of Git LFS"):
        read(b"version https://git-lfs.github.com/spec/v1\n")


def test_refuses_too_many_tensors() -> None:
    empty = {f"{i}": info(shape=(0,), offsets=(0, 0)) for i in range(TENSORS_LIMIT + 1)}
    with pytest.raises(BodyTooLarge, match="at most 4096 tensors are accepted, got 4097"):
        read(tensors(**empty))
    del empty["0"]
    found = read(tensors(**empty))
    assert found is not None
    assert len(found.entries) == TENSORS_LIMIT


@pytest.mark.parametrize("shape", [(2**33 + 1,), (2**32, 2**32), (0, 2**62, 2**62), (2**62,) * 20_000])
def test_refuses_more_elements_than_are_taken(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidTensor, match="at most 8589934592 elements"):
        read(tensors(a=info(shape=shape, offsets=(0, 0))))


@pytest.mark.parametrize(
    "unit", ["[", '{"a":', '"a":{},', "1,", '"a', "\\", '\\"', "\\u0061", " ", "9", '{"dtype":"F32"},', "[0],"]
)
def test_no_header_is_slow(unit: str) -> None:
    text = unit * ((HEADER_LIMIT_BYTES - 20) // len(unit))
    start = time.thread_time()
    for body in (f"{{{text}}}", f'{{"a":[{text}0]}}', f'{{"a":"{text}"}}'):
        with suppress(NormtreeError):
            read(header(body))
    assert time.thread_time() - start < 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 20) | st.sampled_from(["F32", "U8", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=5,
)
INFOS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "F4"]) | JSON,
        "shape": st.lists(st.integers(0, 3), max_size=3) | JSON,
        "data_offsets": st.tuples(st.integers(0, 12), st.integers(0, 12)) | JSON,
    },
    optional={"strides": JSON},
)


@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), INFOS | JSON, max_size=3))
def test_takes_nothing_that_the_library_refuses(infos: dict[str, Any]) -> None:
    body = tensors(**infos)
    try:
        found = read(body)
    except NormtreeError:
        return
    assert found is not None
    theirs = dict(safetensors.deserialize(body + bytes(found.data_bytes)))
    assert {name: tuple(one["shape"]) for name, one in theirs.items()} == {e.name: e.shape for e in found.entries}


A = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'


@pytest.mark.parametrize(
    "text",
    [
        '{"a":@}',
        '{"a":@} \n\t',
        '{"__metadata__":null,"a":@}',
        '{"__metadata__":{},"a":@}',
        '{"__metadata__":{"format":"pt","\u00e9":""},"a":@}',
        '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"strides":[1],"device":null}}',
        '{"a":{"more":[{"x":1e3}],"data_offsets":[0,8],"shape":[1,2,1],"dtype":"F32"}}',
        '{"a":{"dtype":"C64","shape":[],"data_offsets":[0,8]}}',
        '{"a":{"dtype":"F4","shape":[16],"data_offsets":[0,8]}}',
        '{"a":{"dtype":"F8_E8M0","shape":[2,4],"data_offsets":[0,8]}}',
        '{"z":{"dtype":"F64","shape":[0],"data_offsets":[0,0]},"a":@,"e":{"dtype":"U8","shape":[0,3],"data_offsets":[8,8]}}',
        '{"":@}',
        '{"x[/b]\\u001b":@}',
    ],
)
def test_every_reader_takes_the_odd_headers_that_the_library_takes(text: str, tmp_path: Path) -> None:
    body = header(text.replace("@", A)) + np.array([1, 2], np.float32).tobytes()
    theirs = {name: (one["dtype"], tuple(one["shape"])) for name, one in safetensors.deserialize(body)}
    found = read(body)
    assert found is not None
    codes = {element.name: element.safetensors for element in ELEMENTS}
    assert {e.name: (codes.get(e.dtype, e.dtype), e.shape) for e in found.entries} == theirs
    entries = read_stored(body[: found.data_offset], len(body), "x")
    assert {entry.name: (entry.code, entry.shape) for entry in entries} == theirs
    (tmp_path / "odd.safetensors").write_bytes(body)
    file = read_file(tmp_path / "odd.safetensors")
    assert file.tensors.keys() | file.opaque.keys() == theirs.keys()
    assert file.metadata == found.metadata
    write_file(tmp_path / "again.safetensors", file)
    again = safetensors.deserialize((tmp_path / "again.safetensors").read_bytes())
    assert {name: (one["dtype"], tuple(one["shape"])) for name, one in again} == theirs


@pytest.mark.parametrize(
    "text",
    [
        '{"__metadata__":[],"a":@}',
        '{"__metadata__":{"a":null},"a":@}',
        '{"__metadata__":null,"__metadata__":{},"a":@}',
        '{"a":null}',
        '{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}',
        '{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":NaN}}',
        '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":"\\ud800"}}',
        '{"a":@,"b":{"dtype":"U8","shape":[1048576,1048576,1048576,1048576],"data_offsets":[8,8]}}',
        '{"a":@}\0',
        '\ufeff{"a":@}',
    ],
)
def test_every_reader_refuses_what_the_library_refuses(text: str, tmp_path: Path) -> None:
    body = header(text.replace("@", A)) + bytes(8)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(body)
    with pytest.raises((MalformedBody, InvalidTensor)):
        read(body)
    with pytest.raises(InvalidCheckpoint):
        read_stored(body[:-8], len(body), "x")
    (tmp_path / "odd.safetensors").write_bytes(body)
    with pytest.raises(ValueError, match=r"odd.safetensors: "):
        read_file(tmp_path / "odd.safetensors")


@given(st.binary(max_size=60), st.sampled_from([b"", header("{}")[:9], tensors(a=info())[:-3]]))
def test_random_bytes_raise_only_our_errors(tail: bytes, start: bytes) -> None:
    with suppress(NormtreeError):
        read(start + tail)
