"""Each parser of strangers' bytes against any: a typed error or a result, and never a result that others do not see.

pytest runs each target for a few seconds on mutated bodies. With atheris, whose mutations follow coverage,

    python tests/fuzz/test_parsers.py npy -max_total_time=120

runs one as long as one likes; `make fuzz` runs them all.
"""

import importlib
import io
import json
import sys
import tomllib
import warnings
from collections.abc import Callable
from hashlib import sha256
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

FORMATS = "normtree.formats"
PARSERS = (
    *(f"{FORMATS}.{name}" for name in ("npy", "safetensors", "stored", "oip", "strict_json")),
    *(f"normtree.jobs.{name}" for name in ("recipe", "recipe_errors", "journal.journal", "board.job")),
    *(f"normtree.{name}" for name in ("keys.key", "text.patterns")),
)
LIMITS = {"rank_limit": 8, "elements_limit": 2**33}


def module(name: str) -> Any:
    """Import a module when it is first used, so that atheris can watch its branches."""
    return importlib.import_module(f"normtree.{name}")


def parser(name: str) -> Any:
    """Return the parser of a body."""
    return module(f"formats.{name}")


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


def check_header(data: bytes) -> None:
    """What a job takes for a file of known types is what the safetensors library reads."""
    try:
        size = module("formats.stored").header_bytes(data[:8], len(data), "x")
        entries = module("formats.stored").read_stored(data[:size], len(data), "x")
    except NormtreeError:
        return
    if any(entry.code not in module("formats.elements").BITS for entry in entries):
        return
    found = dict(safetensors.deserialize(data))
    assert {entry.name: (entry.code, list(entry.shape), entry.nbytes) for entry in entries} == {
        name: (tensor["dtype"], tensor["shape"], len(tensor["data"])) for name, tensor in found.items()
    }


def check_toml(data: bytes) -> None:
    """What is accepted says what a plain TOML parser reads in it, and means the same as JSON."""
    recipe, wrong = None, ""
    try:
        text = data.decode("utf-8-sig")
        recipe = module("jobs.recipe").parse_recipe(text, "body")
    except UnicodeDecodeError:
        return
    except NormtreeError as error:
        wrong = error.detail
    assert len(wrong.splitlines()) <= 12
    if recipe is None:
        return
    plain = tomllib.loads(text)
    assert (recipe.input, recipe.output, len(recipe.rules)) == (plain["input"], plain["output"], len(plain["rules"]))
    check_json(recipe.model_dump_json(exclude_none=True).encode())


def check_json(data: bytes) -> None:
    """What is accepted survives being written and read again, and its patterns can be asked."""
    try:
        recipe = module("jobs.recipe").recipe_of(module("formats.strict_json").parse(data))
    except (NormtreeError, ValueError):
        return
    written = recipe.model_dump_json(exclude_none=True).encode()
    again = module("jobs.recipe").recipe_of(module("formats.strict_json").parse(written))
    assert (again, again.digest) == (recipe, recipe.digest)
    assert all(rule.goal and rule.claims("a") in {True, False} for rule in recipe.rules)


def check_keys(data: bytes) -> None:
    """What is accepted are keys that can be written and read again."""
    try:
        keys = module("keys.key").read_keys(data.decode(), "keys")
    except ValueError:
        return
    assert keys
    assert module("keys.key").read_keys("\n".join(map(str, keys)), "keys") == keys


def check_journal(data: bytes) -> None:
    """What is believed of a journal matches its digest, which mutations come to know: other lines are not there."""
    state = module("jobs.storage.state").LocalState(SCRATCH.name)
    Path(SCRATCH.name, "journal.jsonl").write_bytes(data)
    try:
        journal = module("jobs.journal.journal").Journal(state)
    except NormtreeError:
        return
    assert journal.begun or not (journal.completed or journal.finished or journal.proofs or journal.stints)
    bodies = (line.rpartition(b',"sha256":"') for line in data.split(b"\n"))
    assert not journal.begun or any(sha256(body).hexdigest().encode() + b'"}' == end for body, _, end in bodies)


def check_note(data: bytes) -> None:
    """What is accepted is a job that can be noted, told and read again."""
    try:
        job = module("jobs.board.job").Job.of_note(data)
    except ValueError:
        return
    assert module("jobs.board.job").Job.of_note(job.note()) == job
    json.dumps(job.as_dict(), allow_nan=False)


SCRATCH = TemporaryDirectory()


def write_journal() -> bytes:
    """Write a journal as a job does."""
    journal = module("jobs.journal.journal").Journal(module("jobs.storage.state").LocalState(SCRATCH.name))
    journal.begin("0" * 64, {"model.safetensors": [8, "1", "f" * 64]})
    journal.note_completed({"wall_s": 1.5}, {})
    return Path(SCRATCH.name, "journal.jsonl").read_bytes()


def npy(array: Any, version: tuple[int, int]) -> bytes:
    body = io.BytesIO()
    np.lib.format.write_array(body, array, version)
    return body.getvalue()


def oip(**given: Any) -> bytes:
    tensor = {"name": "y", "shape": [2, 3], "datatype": "FP32", **given}
    return json.dumps({"id": "7", "inputs": [tensor], "parameters": {"radius": 2.0, "timeout": 1500}}).encode()


JOURNAL = write_journal()
RULES = """[[rules]]
tensors = '.*weight'
exclude = "head\\\\..*"
sparsity = 0.5
[[rules]]
"tensors" = "a.*" # and so on
norm = "l1,l2"
axes = '1,0'
groups = 3
exact = false
scope = "global"
"""
RECIPE = {"input": "in", "output": "out", "overlap": "first", "rules": [{"tensors": "a|b", "relative_radius": 0.25}]}
KEY = f"ada sha256:{'0f' * 32}"
NOTE = {
    "id": "0a" * 16,
    "state": "completed",
    "recipe": RECIPE,
    "created": 1.5,
    "ended": 2,
    "progress": {"bytes_done": 7},
    "error": {"status": 500, "code": "job-died"},
    "key": "k",
    "digest": "",
}


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
    "header": (
        check_header,
        (
            safetensors.numpy.save({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.int8)}, {"k": "v"}),
            safetensors.numpy.save({"w": np.zeros((0, 5), np.float16)}),
        ),
    ),
    "toml": (
        check_toml,
        (
            f"input = 'in'\noutput = \"out\"\noverlap = 'first'\n{RULES}".encode(),
            b"output='o'\ninput='i'\nrules=[{tensors='a', radius=1e3}, {tensors='b', groups=0x1f, norm='l2'}]",
        ),
    ),
    "json": (check_json, (json.dumps(RECIPE).encode(),)),
    "keys": (check_keys, (f"# keys\n{KEY}\nbob{KEY}\t admin ; c{KEY}\r\n".encode(),)),
    "journal": (check_journal, (JOURNAL,)),
    "note": (check_note, (json.dumps(NOTE).encode(),)),
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
    for name in PARSERS:  # those that were imported for a seed are imported again
        sys.modules.pop(name, None)
    with atheris.instrument_imports(include=list(PARSERS)):
        for name in PARSERS:
            importlib.import_module(name)
    with TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            check(seed)
            Path(corpus, str(number)).write_bytes(seed)
        atheris.Setup([*sys.argv, corpus], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
