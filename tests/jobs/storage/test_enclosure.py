"""Files below a folder that others can touch: no link leads out of it, nothing is taken over, nothing is waited for."""

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from normtree.files.enclosure import Enclosure, hidden
from normtree.files.seal import seal, unseal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "victim").write_bytes(b"mine")
    return tmp_path / "folder"


@pytest.fixture
def inside(folder: Path) -> Enclosure:
    return Enclosure(str(folder))


WAYS = {
    "open": lambda inside, name: os.close(inside.open(name)),
    "open to write": lambda inside, name: os.close(inside.open(name, os.O_WRONLY)),
    "create": lambda inside, name: os.close(inside.create(name)),
    "read": lambda inside, name: inside.read(name),
    "write": lambda inside, name: inside.write(name, b"theirs"),
    "stat": lambda inside, name: inside.stat(name),
    "remove": lambda inside, name: inside.remove(name),
    "move": lambda inside, name: inside.move(name, "taken"),
    "place": lambda inside, name: inside.place(name, "taken"),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_link_on_the_way_is_followed(folder: Path, inside: Enclosure, way: str) -> None:
    (folder / "deep").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(NotADirectoryError, match="'deep' on the way to it: wanted a folder, got a link"):
        WAYS[way](inside, "deep/victim")
    assert (folder.parent / "elsewhere" / "victim").read_bytes() == b"mine"
    assert [path.name for path in (folder.parent / "elsewhere").iterdir()] == ["victim"]


def test_no_link_above_the_folder_is_followed_when_it_came_later(folder: Path, inside: Enclosure) -> None:
    folder.rename(folder.with_name("moved"))
    folder.symlink_to(folder.parent / "elsewhere")
    with pytest.raises(NotADirectoryError, match="'folder' on the way to it: wanted a folder, got a link"):
        inside.read("victim")


@pytest.mark.parametrize("way", ["open", "open to write", "create", "read"])
def test_no_link_in_a_files_place_is_followed(folder: Path, inside: Enclosure, way: str) -> None:
    (folder / "file").symlink_to(folder.parent / "elsewhere" / "victim")
    with pytest.raises(OSError, match=r"wanted a file, got a link|File exists"):
        WAYS[way](inside, "file")
    assert (folder.parent / "elsewhere" / "victim").read_bytes() == b"mine"


def test_a_file_is_written_where_a_link_was_and_not_through_it(folder: Path, inside: Enclosure) -> None:
    (folder / "file").symlink_to(folder.parent / "elsewhere" / "victim")
    (folder / hidden("file")).symlink_to(folder.parent / "elsewhere" / "victim")
    inside.write("file", b"ours")
    assert (folder / "file").read_bytes() == b"ours"
    assert not (folder / "file").is_symlink()
    assert (folder.parent / "elsewhere" / "victim").read_bytes() == b"mine"
    assert os.listdir(folder) == ["file"]


def make_special(path: Path, kind: str) -> None:
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a folder", "a link"])
def test_what_is_no_file_is_named_and_not_opened(tmp_path: Path, kind: str) -> None:
    make_special(tmp_path / "it", kind)
    for flags in (os.O_RDONLY, os.O_WRONLY):
        with pytest.raises(OSError, match=f"wanted a file, got {kind}"):
            Enclosure(str(tmp_path)).open("it", flags)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/../../x", "/x", "a//b", "a/", "./a", "a\0b", "\ud800"])
def test_a_name_that_leads_out_or_is_none_is_refused(inside: Enclosure, name: str) -> None:
    with pytest.raises(OSError, match="wanted a name below an absolute folder") as caught:
        inside.read(name)
    assert caught.value.errno == errno.EINVAL
    for folder in ("folder", f"{inside.path}/../elsewhere"):
        with pytest.raises(OSError, match="wanted a name below an absolute folder"):
            Enclosure(folder).read("victim")


def test_folders_come_to_be_with_the_permissions_that_are_asked_for(tmp_path: Path) -> None:
    inside = Enclosure(str(tmp_path / "new"), {"": 0o700, "a": 0o750})
    os.close(inside.create("a/b/file", 0o600))
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "new/a", "new/a/b/file")]
    assert modes == [0o700, 0o750, 0o600]
    assert inside.names() == ["a/b/file"]


def test_all_that_is_below_is_named_and_no_link_entered(folder: Path, inside: Enclosure) -> None:
    (folder / "a").mkdir()
    (folder / "a" / "file").touch()
    (folder / "a" / "up").symlink_to("..")
    (folder / "nowhere").symlink_to("nothing")
    assert inside.names() == ["a/file", "a/up", "nowhere"]
    with pytest.raises(FileNotFoundError):
        Enclosure(str(folder / "none")).names()


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_placed_where_nothing_is_and_nowhere_else(
    folder: Path, inside: Enclosure, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def link(*_: Any, **__: Any) -> None:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

        monkeypatch.setattr(os, "link", link)
    (folder / "one").write_bytes(b"one")
    inside.place("one", "placed")
    assert os.listdir(folder) == ["placed"]
    (folder / "two").write_bytes(b"two")
    (folder / "dangling").symlink_to("nothing")
    for taken in ("placed", "dangling"):
        with pytest.raises(FileExistsError):
            inside.place("two", taken)
    assert (folder / "placed").read_bytes() == b"one"
    assert (folder / "two").read_bytes() == b"two"


def test_a_read_is_bounded_where_that_is_asked(folder: Path, inside: Enclosure) -> None:
    (folder / "file").write_bytes(bytes(11))
    assert inside.read("file", 11) == bytes(11)
    with pytest.raises(OSError, match="wanted at most 10 bytes, got 11"):
        inside.read("file", 10)
    assert inside.read("none") is None
    assert inside.stat("none") is None


def test_no_descriptor_is_left_open(folder: Path, inside: Enclosure) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    (folder / "link").symlink_to(folder.parent / "elsewhere")
    os.mkfifo(folder / "pipe")
    before = count()
    for name in ("link/victim", "pipe", "none", "none/file", "..", "new/file"):
        for way in WAYS.values():
            with suppress(OSError):
                way(inside, name)
    inside.names()
    assert count() == before


def test_a_seal_knows_what_was_kept_and_what_it_belongs_to() -> None:
    data = bytes(range(100))
    sealed = seal(data, b"one")
    assert unseal(sealed, b"one") == data
    assert unseal(sealed, b"two") is None
    assert unseal(seal(b"e" + data, b"on"), b"one") is None
    assert unseal(seal(b"", b""), b"") == b""
    for at in range(len(sealed)):
        flipped = bytearray(sealed)
        flipped[at] ^= 1 << at % 8
        assert unseal(bytes(flipped), b"one") is None
    for length in range(len(sealed)):
        assert unseal(sealed[:length], b"one") is None
