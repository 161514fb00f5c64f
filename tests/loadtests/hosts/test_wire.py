"""The wire between two hosts is as slow and as long as it was told, and nothing is left of it."""

import subprocess

import pytest
from hosts.wire import Lane, missing, wire

pytestmark = pytest.mark.nodes


def test_wire_is_what_it_was_told() -> None:
    if lacks := missing():
        pytest.skip(lacks)
    with wire() as made:
        made.set(gbit_s=0.5, round_trip_ms=20)
        before = made.wire_bytes()
        found = made.measure(seconds=0.5)
        crossed = made.wire_bytes() - before
        names = made.names
    assert 20 <= found["round_trip_ms"] < 2000
    assert 0 < found["gbit_s"] < 0.55
    assert crossed >= 0.9 * found["gbit_s"] * 0.5e9 / 8
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not any(name in listed for name in names)


class Pipe:
    """A lane's two ends as the test holds them."""

    def __init__(self) -> None:
        import socket

        self.near, inlet = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        outlet, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.far.setblocking(False)
        self.lane = Lane(inlet.fileno(), outlet.fileno())
        self._ends = (self.near, inlet, outlet, self.far)

    def close(self) -> None:
        for end in self._ends:
            end.close()


def test_packets_leave_when_their_bits_and_the_delay_have_passed() -> None:
    pipe = Pipe()
    pipe.lane.s_per_byte, pipe.lane.delay_s = 1e-3, 0.5
    for _ in range(2):
        pipe.near.send(bytes(10))
        pipe.lane.take(100.0)
    assert pipe.lane.next_s == pytest.approx(100.51)
    pipe.lane.pass_on(100.509)
    with pytest.raises(BlockingIOError):
        pipe.far.recv(100)
    pipe.lane.pass_on(100.511)
    assert len(pipe.far.recv(100)) == 10
    assert pipe.lane.next_s == pytest.approx(100.52)  # the second waited for the first's bits
    pipe.close()


def test_a_full_lane_takes_no_more() -> None:
    pipe = Pipe()
    pipe.lane.s_per_byte = 1e-2
    pipe.near.send(bytes(10))
    assert pipe.lane.open(0.0)
    pipe.lane.take(0.0)
    assert not pipe.lane.open(0.0)
    assert pipe.lane.open(0.09)
    pipe.close()
