"""Tensors in files: `.npy` and `.safetensors`, read without pickle and written whole or not at all."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from numpy.lib.format import MAGIC_PREFIX
from numpy.typing import NDArray
from safetensors.numpy import save

Array = NDArray[Any]

SUFFIXES = (".npy", ".safetensors")

_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


@dataclass(frozen=True)
class TensorFile:
    """The tensors of one file, in their order, and its metadata.

    Args:
        tensors: arrays by name; a `.npy` file holds one, named ``y``.
        metadata: the texts a `.safetensors` file carries.
    """

    tensors: Mapping[str, Array]
    metadata: Mapping[str, str] = field(default_factory=dict)


def check_suffix(path: Path) -> str:
    """Return the file's suffix if it is one we read and write.

    Raises:
        ValueError: another suffix.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: wanted a name that ends in {' or '.join(SUFFIXES)}")
    return path.suffix


def check_target(path: Path) -> None:
    """Refuse a place for a file that cannot be written there, before the work is done.

    Raises:
        ValueError: another suffix than those we write, or no such folder.
    """
    check_suffix(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such folder")


def read_file(path: Path) -> TensorFile:
    """Read all tensors of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not what its suffix says, or holds an element type we do not know.
    """
    if check_suffix(path) == ".npy":
        return TensorFile({"y": _read_npy(path)})
    data = path.read_bytes()
    try:
        entries = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: {error}") from error
    tensors = {name: _decode(path, name, entry) for name, entry in entries}
    return TensorFile(tensors, _metadata(data))


def write_file(path: Path, file: TensorFile) -> None:
    """Write tensors to a file beside ``path`` and rename it into place, so that no half file is ever seen.

    Raises:
        OSError: it cannot be written.
        ValueError: several tensors for a `.npy`.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as beside:
        try:
            beside.write(_encode(path, file))
            beside.flush()
            os.fsync(beside.fileno())
            Path(beside.name).chmod(0o666 & ~_umask())
            Path(beside.name).replace(path)
        except BaseException:
            Path(beside.name).unlink(missing_ok=True)
            raise


def _read_npy(path: Path) -> Array:
    with path.open("rb") as file:
        if file.read(len(MAGIC_PREFIX)) != MAGIC_PREFIX:  # NumPy would take it for a pickle
            raise ValueError(f"{path}: wanted .npy, which begins with \\x93NUMPY")
    try:
        array: Array = np.load(path, allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return array


def _decode(path: Path, name: str, entry: Mapping[str, Any]) -> Array:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"{path}: tensor {name!r} has dtype {entry['dtype']}, wanted one of {', '.join(_DTYPES)}")
    return np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])


def _encode(path: Path, file: TensorFile) -> bytes:
    if check_suffix(path) == ".safetensors":
        tensors = {name: np.ascontiguousarray(array) for name, array in file.tensors.items()}
        return save(tensors, dict(file.metadata) or None)
    if len(file.tensors) != 1:
        raise ValueError(f"{path}: a .npy holds one tensor, got {len(file.tensors)}; write a .safetensors")
    (array,) = file.tensors.values()
    with tempfile.SpooledTemporaryFile() as buffer:
        np.save(buffer, array, allow_pickle=False)
        buffer.seek(0)
        return bytes(buffer.read())


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    return metadata


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
