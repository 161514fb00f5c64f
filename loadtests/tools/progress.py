"""How far a run of several parts is: a line for every step, with the time left."""

from collections.abc import Callable, Mapping
from time import monotonic, strftime


class Progress:
    """Tells of the parts of a run as they go by.

    Args:
        planned_s: about how long each part takes, in the order they run.
        tell: where the lines go.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        planned_s: Mapping[str, float],
        tell: Callable[[str], None] = lambda line: print(line, flush=True),
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._planned_s, self._tell, self._clock = dict(planned_s), tell, clock
        self._part, self._start_s = "", 0.0

    @property
    def left_s(self) -> float:
        """About how long the rest takes, as planned."""
        names = list(self._planned_s)
        later = names[names.index(self._part) + 1 :] if self._part else names
        here_s = max(0.0, self._planned_s[self._part] - self._spent_s) if self._part else 0.0
        return here_s + sum(self._planned_s[name] for name in later)

    @property
    def _spent_s(self) -> float:
        return self._clock() - self._start_s

    def begin(self, part: str) -> None:
        """A part begins."""
        self._part, self._start_s = part, self._clock()
        number = list(self._planned_s).index(part) + 1
        self._line(f"part {number} of {len(self._planned_s)}, about {_text(self._planned_s[part])}")

    def say(self, step: str) -> None:
        """A step of the part begins."""
        self._line(step)

    def end(self, complaint: str = "") -> None:
        """The part has ended."""
        self._planned_s[self._part] = 0.0
        taken = _text(self._spent_s)
        self._line(f"failed after {taken}: {complaint}" if complaint else f"done in {taken}")

    def _line(self, what: str) -> None:
        self._tell(f"{strftime('%H:%M:%S')}  {self._part}: {what}  [{_text(self.left_s)} left]")


def _text(seconds: float) -> str:
    return f"{round(seconds)} s" if seconds <= 90 else f"{round(seconds / 60)} min"
