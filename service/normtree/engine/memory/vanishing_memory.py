"""Guards over memory that others may take away: who touches what is gone goes on, and learns of it afterwards.

A file that its owner cuts short while it is mapped ends whoever touches a page beyond its end, by SIGBUS. In a guarded
map such pages become zeros of this process's own, as compositors do it with their clients' buffers, and the map is
marked. The signal comes in the thread that touches the page, from a kernel or a copy and never from amid the
interpreter, so that what handles it may be written in Python. Elsewhere the signal ends the process as ever.
"""

import ctypes
import mmap
import signal
from dataclasses import dataclass
from threading import Lock

import numpy as np

_SA_SIGINFO = 4
_ADDRESS = 2  # of the words of what the kernel tells with the signal, on machines of 64 bits
_PRIVATE, _FIXED, _ANONYMOUS = 0x02, 0x10, 0x20
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.POINTER(ctypes.c_size_t), ctypes.c_void_p)


class _Action(ctypes.Structure):
    """What glibc and musl call ``struct sigaction``."""

    _fields_ = (
        ("handler", _Handler),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


@dataclass(eq=False)
class Guarded:
    """A map that is guarded.

    Args:
        memory: the map; held, so that nothing else comes to lie at its place.
        start: its address.
        stop: the address behind its last page.
        cut: whether a page of it was gone when it was touched: what it shows is no longer the file.
    """

    memory: mmap.mmap
    start: int
    stop: int
    cut: bool = False


class _Guards:
    """The maps that are guarded in this process, and the handler, from the first of them on."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._maps: tuple[Guarded, ...] = ()
        self._handler = _Handler(self._on_signal)  # kept for as long as the system may call it
        self._is_set = False

    def add(self, guarded: Guarded) -> None:
        with self._lock:
            self._maps = (*self._maps, guarded)
            if not self._is_set:
                self._set()
                self._is_set = True

    def remove(self, guarded: Guarded) -> None:
        with self._lock:
            self._maps = tuple(each for each in self._maps if each is not guarded)

    def _set(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        action = _Action(self._handler, flags=_SA_SIGINFO)
        if self._libc.sigaction(signal.SIGBUS, ctypes.byref(action), None):
            raise OSError(ctypes.get_errno(), "SIGBUS cannot be handled")

    def _on_signal(self, number: int, told: "ctypes._Pointer[ctypes.c_size_t]", _: int) -> None:
        """Put zeros where pages are gone; or let the signal do its work when it comes again."""
        address = told[_ADDRESS]
        for guarded in self._maps:
            if guarded.start <= address < guarded.stop:
                guarded.cut = True
                page = address - address % mmap.PAGESIZE
                kind = _PRIVATE | _FIXED | _ANONYMOUS
                self._libc.mmap(page, guarded.stop - page, mmap.PROT_READ | mmap.PROT_WRITE, kind, -1, 0)
                return
        self._libc.signal(number, None)


_guards = _Guards()


def guard(memory: mmap.mmap) -> Guarded:
    """Guard a map, until `release`.

    Args:
        memory: a shared map of a whole file, writable.

    Raises:
        OSError: this system does not let SIGBUS be handled.
    """
    start = np.frombuffer(memory, np.uint8).ctypes.data
    guarded = Guarded(memory, start, start + -(-len(memory) // mmap.PAGESIZE) * mmap.PAGESIZE)
    _guards.add(guarded)
    return guarded


def release(guarded: Guarded) -> None:
    """Guard a map no longer; nobody touches it any more."""
    _guards.remove(guarded)
