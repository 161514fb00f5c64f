"""Two hosts on this machine, and the wire between them: network namespaces joined by a relay that holds packets back.

The kernels we met have no `netem`, so the wire is made here: each namespace gets a TUN device, and a process between
them passes every packet on after the time its bits take at the wire's rate and the wire's delay. What the wire really
does is measured before it is used (`Wire.measure`), for the relay takes CPU and a fast wire may be slower than it says.
Needs root and `ip`; every name and address is of this process and is removed at the end.
"""

import ctypes
import errno
import fcntl
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import monotonic, perf_counter, sleep

TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000
MTU = 65_000
LONGEST_QUEUE_S = 0.05
DEVICE, PORT = "wire0", 7077


@dataclass(frozen=True)
class Wire:
    """Two hosts and what joins them.

    Args:
        names: of the namespaces.
        addresses: of the hosts.
        relay: process between them.
    """

    names: tuple[str, str]
    addresses: tuple[str, str]
    relay: "subprocess.Popen[str]"

    def set(self, gbit_s: float, round_trip_ms: float) -> None:
        """Make it as fast and as long as is wanted, from now on.

        Args:
            gbit_s: rate each way.
            round_trip_ms: delay there and back.
        """
        assert self.relay.stdin
        self.relay.stdin.write(f"{gbit_s} {round_trip_ms}\n")
        self.relay.stdin.flush()

    def command(self, host: int, *command: str) -> list[str]:
        """A command line that runs on a host."""
        return ["ip", "netns", "exec", self.names[host], *command]

    def wire_bytes(self) -> int:
        """Bytes that have crossed, both ways, as the first host's interface counts them."""
        shown = subprocess.run(
            ["ip", "-n", self.names[0], "-j", "-s", "link", "show", DEVICE], capture_output=True, text=True, check=True
        )
        counts = json.loads(shown.stdout)[0]["stats64"]
        return int(counts["rx"]["bytes"]) + int(counts["tx"]["bytes"])

    def measure(self, seconds: float = 1.0) -> dict[str, float]:
        """Measure the round trip of a byte, in milliseconds, and what one TCP connection carries, in Gbit/s."""
        code = [sys.executable, __file__]
        with subprocess.Popen(self.command(1, *code, "answer", self.addresses[1])) as answering:
            try:
                asked = subprocess.run(
                    self.command(0, *code, "ask", self.addresses[1], str(seconds)),
                    capture_output=True, text=True, check=True, timeout=30 + seconds,
                )  # fmt: skip
            finally:
                answering.kill()
        found: dict[str, float] = json.loads(asked.stdout)
        return found


def missing() -> str:
    """Say what is missing for making namespaces here; empty where nothing is."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "network namespaces need ip, of iproute2"
    if not os.path.exists("/dev/net/tun"):
        return "the wire needs /dev/net/tun"
    tried = f"probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", tried], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", tried], check=True)
    return ""


@contextmanager
def wire() -> Iterator[Wire]:
    """Make two hosts and a wire, fast at first; all of it is gone at the end."""
    names = (f"nt-{os.getpid()}-a", f"nt-{os.getpid()}-b")
    addresses = ("10.231.7.1", "10.231.7.2")
    relay = None
    try:
        for name in names:
            _ip("netns", "add", name)
        relay = subprocess.Popen(
            [sys.executable, __file__, "relay", *names], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert relay.stdout
        if relay.stdout.readline().strip() != "up":
            raise OSError("the relay did not start")
        for name, address in zip(names, addresses, strict=True):
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", DEVICE)
            _ip("-n", name, "link", "set", DEVICE, "mtu", str(MTU), "up")
        yield Wire(names, addresses, relay)
    finally:
        if relay is not None:
            relay.kill()
            relay.communicate()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Lane:
    """One direction of the wire: packets leave when their bits have been sent and the delay has passed."""

    def __init__(self, inlet: int, outlet: int) -> None:
        self.inlet, self._outlet = inlet, outlet
        self.s_per_byte, self.delay_s = 0.0, 0.0
        self._free_s = 0.0
        self._queue: deque[tuple[float, bytes]] = deque()

    @property
    def next_s(self) -> float | None:
        """When the next packet leaves."""
        return self._queue[0][0] if self._queue else None

    def open(self, now_s: float) -> bool:
        """Whether it takes more: a longer queue would be delay that nobody asked for."""
        return self._free_s - now_s < LONGEST_QUEUE_S

    def take(self, now_s: float) -> None:
        """Read a packet, and set its time."""
        packet = os.read(self.inlet, MTU + 64)
        self._free_s = max(now_s, self._free_s) + len(packet) * self.s_per_byte
        self._queue.append((self._free_s + self.delay_s, packet))

    def pass_on(self, now_s: float) -> None:
        """Write the packets whose time has come."""
        while self._queue and self._queue[0][0] <= now_s:
            try:
                os.write(self._outlet, self._queue.popleft()[1])
            except OSError as error:
                if error.errno != errno.EIO:  # the other end is not up: the packet is lost, as on any wire
                    raise


def relay(names: Sequence[str]) -> None:
    """Join two namespaces until killed; each line of the standard input sets rate and round trip."""
    devices = [_tun(name) for name in names]
    lanes = [Lane(a, b) for a, b in (devices, devices[::-1])]
    print("up", flush=True)
    while True:
        now_s = perf_counter()
        due = [lane.next_s for lane in lanes if lane.next_s is not None]
        inlets = [lane.inlet for lane in lanes if lane.open(now_s)]
        wait_s = max(0.0, min(due) - now_s) if due else (None if len(inlets) == len(lanes) else 1e-3)
        ready, _, _ = select.select([sys.stdin, *inlets], [], [], wait_s)
        now_s = perf_counter()
        if sys.stdin in ready:
            gbit_s, round_trip_ms = map(float, sys.stdin.readline().split())
            for lane in lanes:
                lane.s_per_byte, lane.delay_s = 8e-9 / gbit_s, round_trip_ms / 2e3
        for lane in lanes:
            if lane.inlet in ready:
                lane.take(now_s)
            lane.pass_on(now_s)


def _tun(name: str) -> int:
    """Open a TUN device in a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    space = os.open(f"/var/run/netns/{name}", os.O_RDONLY)
    if libc.setns(space, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"cannot enter namespace {name}")
    os.close(space)
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    return device


def answer(address: str) -> None:
    """Serve `ask` once: echo single bytes on the first connection, swallow what comes on the second."""
    with socket.create_server((address, PORT)) as server:
        with server.accept()[0] as line:
            while byte := line.recv(1):
                line.sendall(byte)
        with server.accept()[0] as line:
            while line.recv(1 << 20):
                pass


def ask(address: str, seconds: float) -> None:
    """Measure the wire to where `answer` runs, and print what was found as JSON."""
    trips = []
    with _connect(address) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(30):
            start = perf_counter()
            line.sendall(b"x")
            line.recv(1)
            trips.append(1e3 * (perf_counter() - start))
    block, sent = bytes(1 << 20), 0
    with _connect(address) as line:
        start = perf_counter()
        while perf_counter() - start < seconds:
            line.sendall(block)
            sent += len(block)
        line.shutdown(socket.SHUT_WR)
        line.recv(1)  # until all has arrived
        taken_s = perf_counter() - start
    print(json.dumps({"round_trip_ms": median(trips), "gbit_s": sent * 8e-9 / taken_s}))


def _connect(address: str) -> socket.socket:
    end_s = monotonic() + 10
    while True:
        try:
            return socket.create_connection((address, PORT), timeout=20)
        except ConnectionRefusedError:
            if monotonic() > end_s:
                raise
            sleep(0.05)


if __name__ == "__main__":
    role, *given = sys.argv[1:]
    if role == "relay":
        relay(given)
    elif role == "answer":
        answer(given[0])
    else:
        ask(given[0], float(given[1]))
