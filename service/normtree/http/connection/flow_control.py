"""The flow of a connection's bytes: uvicorn's, which can be held where more of them would only pile up."""

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """Pauses and resumes reading and writing. While it is held, nothing resumes reading.

    Whoever waits for a body or for a departure resumes reading. Without a hold, a client that sends request after
    request and reads no answer would thus be read on and on.
    """

    _held = False

    def hold(self) -> None:
        """Read no more until `release`."""
        self._held = True
        self.pause_reading()

    def release(self) -> None:
        """Read again."""
        self._held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        """Read again, unless held."""
        if not self._held:
            super().resume_reading()
