"""Tensors in files: `.npy` and `.safetensors`, read without pickle and written whole or not at all."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from numpy.typing import NDArray

from normtree.errors import InvalidCheckpoint
from normtree.formats.contents import Entry
from normtree.formats.elements import BITS, BY_CODE, code_of, dtype_of, is_projectable
from normtree.formats.safetensors import LENGTH_BYTES, encode_header
from normtree.formats.stored import header_bytes, read_contents

Array = NDArray[Any]

SUFFIXES = (".npy", ".safetensors")


@dataclass(frozen=True)
class Opaque:
    """A tensor of a type that no array is made of, such as 8-bit floats. It is kept, and nothing else.

    Args:
        code: its element type, by the format's name.
        shape: lengths of its axes.
        data: its bytes.
    """

    code: str
    shape: tuple[int, ...]
    data: bytes | bytearray

    @property
    def nbytes(self) -> int:
        """Its size, in bytes."""
        return len(self.data)


@dataclass(frozen=True)
class TensorFile:
    """The tensors of one file, in their order, and its metadata.

    Args:
        tensors: arrays by name; a `.npy` file holds one, named ``y``.
        metadata: the texts a `.safetensors` file carries.
        opaque: its tensors that are no arrays, by name.
        mode: its permissions.
    """

    tensors: Mapping[str, Array]
    metadata: Mapping[str, str] = field(default_factory=dict)
    opaque: Mapping[str, Opaque] = field(default_factory=dict)
    mode: int = 0o666


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
        ValueError: it is not what its suffix says.
    """
    if check_suffix(path) == ".npy":
        return TensorFile({"y": _read_npy(path)}, mode=_mode(path))
    try:
        return _read_safetensors(path)
    except InvalidCheckpoint as error:
        raise ValueError(error.detail) from error


def write_file(path: Path, file: TensorFile) -> None:
    """Write tensors to a file beside ``path`` and rename it into place, so that no half file is ever seen.

    Its permissions are those of the file that the tensors are of, less the umask's.

    Raises:
        OSError: it cannot be written.
        ValueError: several tensors for a `.npy`, or an element type that the format has no name for.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as beside:
        try:
            for part in _encode(path, file):
                beside.write(part)
            beside.flush()
            os.fsync(beside.fileno())
            Path(beside.name).chmod(file.mode & ~_umask())
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


def _read_safetensors(path: Path) -> TensorFile:
    size = path.stat().st_size
    tensors: dict[str, Array] = {}
    opaque: dict[str, Opaque] = {}
    with path.open("rb") as file:
        prefix = file.read(LENGTH_BYTES)
        rest = file.read(header_bytes(prefix, size, str(path)) - len(prefix))
        contents = read_contents(prefix + rest, size, str(path))
        for entry in contents.entries:
            data, code = bytearray(entry.nbytes), code_of(entry.dtype)
            file.readinto(data)
            if _is_array(code):
                tensors[entry.name] = np.frombuffer(data, BY_CODE[code].dtype).reshape(entry.shape)
            else:
                opaque[entry.name] = Opaque(code, entry.shape, data)
    return TensorFile(tensors, contents.metadata, opaque, _mode(path))


def _is_array(code: str) -> bool:
    """Tell whether tensors of a type are made arrays of: those that can be projected, integers and truth values."""
    return is_projectable(dtype_of(code)) or (code in BY_CODE and code[0] in "IUB")


def _encode(path: Path, file: TensorFile) -> Iterator[bytes | bytearray]:
    """Return a file's bytes, part by part."""
    if check_suffix(path) == ".npy":
        yield _encode_npy(path, file)
        return
    tensors: dict[str, Array | Opaque] = {**file.opaque, **file.tensors}
    codes = {name: _code(tensor) for name, tensor in tensors.items()}
    names = sorted(tensors, key=lambda name: (-BITS.get(codes[name], 8), name))  # so that each is aligned
    entries = [Entry(name, codes[name], tensors[name].shape, tensors[name].nbytes) for name in names]
    yield encode_header(tuple(entries), file.metadata)
    for name in names:
        yield _little(tensors[name])


def _code(tensor: Array | Opaque) -> str:
    if isinstance(tensor, Opaque):
        return tensor.code
    code = code_of(tensor.dtype.name)
    if not _is_array(code):
        raise ValueError(f"dtype: {tensor.dtype} has no name in {SUFFIXES[1]}")
    return code


def _little(tensor: Array | Opaque) -> bytes | bytearray:
    """Return a tensor's bytes as the format has them: little-endian, the last axis the fastest."""
    return (
        tensor.data
        if isinstance(tensor, Opaque)
        else tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes()
    )


def _encode_npy(path: Path, file: TensorFile) -> bytes:
    count = len(file.tensors) + len(file.opaque)
    if count != 1 or file.opaque:
        raise ValueError(f"{path}: a .npy holds one tensor, got {count}; write a .safetensors")
    (array,) = file.tensors.values()
    with tempfile.SpooledTemporaryFile() as buffer:
        np.save(buffer, array, allow_pickle=False)
        buffer.seek(0)
        return bytes(buffer.read())


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
