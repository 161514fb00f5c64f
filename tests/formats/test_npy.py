"""The reader of .npy headers: what it takes, what it refuses and with which words, and that NumPy agrees."""

import io
import time
from contextlib import suppress
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from normtree.errors import InvalidTensor, MalformedBody, NormtreeError
from normtree.formats.contents import Contents, Entry
from normtree.formats.npy import HEADER_LIMIT_BYTES, MAGIC, encode_header, read_header

VERSIONS = ((1, 0), (2, 0), (3, 0))


DTYPES = ("<f2", ">f2", "<f4", ">f4", "<f8", ">f8")


def read(prefix: bytes) -> Contents | None:
    return read_header(prefix, rank_limit=8, elements_limit=2**33)


def only(contents: Contents | None) -> Entry:
    assert contents is not None
    (entry,) = contents.entries
    return entry


def dtype_of(entry: Entry) -> np.dtype[Any]:
    return np.dtype(entry.dtype).newbyteorder(">" if entry.big_endian else "<")


def npy(array: NDArray[Any], version: tuple[int, int] = (1, 0)) -> bytes:
    body = io.BytesIO()
    np.lib.format.write_array(body, array, version, allow_pickle=True)
    return body.getvalue()


def header(text: str, version: int = 1) -> bytes:
    raw = text.encode()
    return MAGIC + bytes([version, 0]) + len(raw).to_bytes(2 if version == 1 else 4, "little") + raw


def shaped(shape: str) -> bytes:
    return header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}")


@given(
    shape=hnp.array_shapes(min_dims=0, max_dims=8, min_side=0, max_side=3),
    dtype=st.sampled_from(DTYPES),
    order=st.sampled_from("CF"),
    version=st.sampled_from(VERSIONS),
)
def test_agrees_with_numpy_on_what_numpy_writes(
    shape: tuple[int, ...], dtype: str, order: Any, version: tuple[int, int]
) -> None:
    array = np.zeros(shape, dtype, order)
    body = npy(array, version)
    found = read(body)
    entry = only(found)
    assert (entry.name, entry.shape, dtype_of(entry)) == ("y", array.shape, array.dtype)
    assert (entry.order == "F") == (array.flags.f_contiguous and not array.flags.c_contiguous)
    assert found is not None
    assert found.data_offset + found.data_bytes == len(body)


@pytest.mark.parametrize("version", VERSIONS)
def test_asks_for_more_until_the_header_is_whole(version: tuple[int, int]) -> None:
    body = npy(np.zeros((3, 4), np.float32), version)
    found = read(body)
    assert found is not None
    assert all(read(body[:count]) is None for count in range(found.data_offset))
    assert read(body[: found.data_offset]) == found


@given(shape=hnp.array_shapes(min_dims=0, max_dims=8, min_side=0, max_side=3), dtype=st.sampled_from(DTYPES[::2]))
def test_writes_what_numpy_reads(shape: tuple[int, ...], dtype: str) -> None:
    array = np.arange(np.prod(shape, dtype=int), dtype=dtype).reshape(shape)
    entry = Entry("y", array.dtype.name, shape, array.nbytes)
    start = encode_header(entry)
    assert len(start) % 64 == 0
    found = np.load(io.BytesIO(start + array.tobytes()), allow_pickle=False)
    assert found.dtype.str == dtype
    np.testing.assert_array_equal(found, array)
    assert read(start) == Contents((entry,), len(start))


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("{'descr':'<f4','fortran_order':False,'shape':(3,4)}", (3, 4)),
        ('{"shape": (3, 4,), "fortran_order": False, "descr": "<f4"}\n', (3, 4)),
        ("  { 'descr' : '<f4' , 'fortran_order' : False , 'shape' : ( 3 , ) , }  \n", (3,)),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (3L, 4L), }", (3, 4)),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", ()),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 8589934592), }", (0, 2**33)),
    ],
)
def test_takes_what_other_writers_write(text: str, shape: tuple[int, ...]) -> None:
    assert only(read(header(text))).shape == shape


@pytest.mark.parametrize(
    ("array", "name"),
    [
        (np.zeros(2, np.longdouble), "float128"),
        (np.zeros(2, np.int32), "int32"),
        (np.zeros(2, np.uint8), "uint8"),
        (np.zeros(2, np.complex64), "complex64"),
        (np.zeros(2, bool), "bool"),
        (np.array(["text"]), "text"),
        (np.array([b"text"]), "bytes"),
        (np.array([None]), "object"),
        (np.zeros(2, [("a", "<f4")]), "structured"),
        (np.zeros(2, "M8[s]"), "unknown"),
        (np.zeros(2, "V3"), "unknown"),
    ],
)
def test_refuses_other_types_by_name(array: NDArray[Any], name: str) -> None:
    with pytest.raises(InvalidTensor, match=rf"float16, float32 and float64 .* got .*{name}") as caught:
        read(npy(array))
    assert caught.value.pointer == "dtype"


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("(-1, 4)", r"shape\[0\]: the length of an axis must be >= 0, got -1"),
        ("(1, 1, 1, 1, 1, 1, 1, 1, 1)", "at most 8 axes are accepted, got 9"),
        ("(8589934593,)", "at most 8589934592 elements"),
        ("(4294967296, 4294967296, 4294967296)", "at most 8589934592 elements"),
        ("(0, 4294967296, 4294967296)", "at most 8589934592 elements"),
    ],
)
def test_refuses_shapes_out_of_range(shape: str, message: str) -> None:
    with pytest.raises(InvalidTensor, match=message):
        read(shaped(shape))


@pytest.mark.parametrize(
    "body",
    [
        b"PK\x03\x04",
        b"\x93NUMPX\x01\x00",
        MAGIC + b"\x00\x00",
        MAGIC + b"\x01\x01",
        MAGIC + b"\x04\x00",
        header(""),
        header("[]"),
        header("{}"),
        header("{'descr': '<f4', 'fortran_order': False}"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'more': (1,)}"),
        header("{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (3,)}"),
        header("{'descr': '<f4', 'fortran_order': 0, 'shape': (3,)}"),
        header("{'descr': '<f4', 'fortran_order': (), 'shape': (3,)}"),
        header("{'descr': False, 'fortran_order': False, 'shape': (3,)}"),
        header("{'descr': __import__('os').getpid(), 'fortran_order': False, 'shape': (3,)}"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)} + {}"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': ((3,),)}"),
        header("{'descr': '<f' '4', 'fortran_order': False, 'shape': (3,)}"),
        *(shaped(text) for text in ("3", "(3)", "[3]", "'3'", "True", "(,)", "(3,,)", "(3 4)", "(03,)", "(3.0,)")),
        *(shaped(text) for text in ("(True,)", "(0x3,)", "(+3,)", "(3_0,)", "(³,)", "(" + "9" * 30 + ",)")),
    ],
)
def test_refuses_what_is_no_header(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        read(body)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_refuses_a_long_header_before_it_is_read(version: int) -> None:
    limit = HEADER_LIMIT_BYTES
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }"
    assert read(header(text.ljust(limit), version)) is not None
    start = header(text.ljust(limit + 1), version)[:12]
    with pytest.raises(MalformedBody, match=f"at most {limit} bytes are read, got a length of {limit + 1}"):
        read(start)


@pytest.mark.parametrize(
    "unit", [" ", "{", "}", "[", "(", "'", '"', ",", ":", "-", "1", "\\", "not ", "'a':(", "'descr':[", "{'a':", "] "]
)
def test_no_header_is_slow(unit: str) -> None:
    text = unit * (HEADER_LIMIT_BYTES // len(unit) - 2)
    start = time.thread_time()
    for body in (header(text), header(f"{{{text}}}"), header(f"{{{text}"), shaped(f"({text})")[:HEADER_LIMIT_BYTES]):
        with pytest.raises(NormtreeError):
            read(header(body[10:].decode("latin-1")))
    assert time.thread_time() - start < 5


KEYS = ("'descr'", "'fortran_order'", "'shape'", '"shape"', "'other'")
VALUES = (
    "'<f4'",
    '">f8"',
    "'<f2'",
    "'<i2'",
    "True",
    "False",
    "()",
    "(3)",
    "(3,)",
    "( 2 , 3 , )",
    "(2,3)",
    "(03,)",
    "[3]",
)
ITEMS = st.tuples(st.sampled_from(KEYS), st.sampled_from((":", " : ")), st.sampled_from(VALUES)).map("".join)


@given(st.lists(ITEMS, min_size=3, max_size=4), st.sampled_from((",", ", ", " ")), st.sampled_from(("", ",", " , ")))
@example(["'shape':(3,)", "'descr':'<f4'", "'fortran_order':True"], ",", "")
def test_takes_nothing_that_numpy_refuses(items: list[str], comma: str, end: str) -> None:
    text = "{" + comma.join(items) + end + "}"
    body = header(text)
    try:
        entry = only(read(body))
    except NormtreeError:
        return
    array = np.lib.format.read_array(io.BytesIO(body + bytes(entry.nbytes)), allow_pickle=False)
    assert (array.shape, array.dtype) == (entry.shape, dtype_of(entry))


@given(st.binary(max_size=40), st.sampled_from((b"", MAGIC, MAGIC + b"\x01\x00", MAGIC + b"\x02\x00")))
def test_random_bytes_raise_only_our_errors(tail: bytes, start: bytes) -> None:
    with suppress(NormtreeError):
        read(start + tail)
