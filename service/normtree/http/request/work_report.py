"""What an answer tells of the work behind it: timings of several tensors added up, as headers and as parameters."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from math import prod

import pydantic_core

from normtree.engine.timing.schema import LevelTiming, Timing

_TENSORS_SHOWN = 32
_NAME_SHOWN = 100
_WARNED = 4
_SHOWN = ("engine", "radius", "groups_asked", "groups_left", "warning", "wall_ms", "serial_ms", "speedup")


def add_up(timings: Sequence[Timing]) -> Timing:
    """Return the timing of tensors that were projected one after the other, by the schema of one.

    Times, bytes, blocks and radii are sums; the shape is the number of all elements.

    Args:
        timings: one or more.
    """
    if len(timings) == 1:
        return timings[0]
    first = timings[0]
    stages = {stage: sum(t.stages_ms[stage] for t in timings) for stage in first.stages_ms}
    depth = max(len(t.levels) for t in timings)
    return Timing(
        engine=_join(t.engine for t in timings),
        reason=_join(t.reason for t in timings),
        norm=first.norm,
        axes=_join(t.axes for t in timings),
        radius=sum(t.radius for t in timings),
        shape=(sum(prod(t.shape) for t in timings),),
        dtype=_join(t.dtype for t in timings),
        blocks=sum(t.blocks for t in timings),
        workers=max(t.workers for t in timings),
        nodes=max(t.nodes for t in timings),
        stages_ms=stages,
        levels=tuple(_add_level([t.levels[i] for t in timings if i < len(t.levels)]) for i in range(depth)),
        work_ms=sum(t.work_ms for t in timings),
        span_ms=sum(t.span_ms for t in timings),
        wall_ms=sum(t.wall_ms for t in timings),
        serial_ms=sum(t.serial_ms for t in timings),
        serial_is=first.serial_is,
        retries=_sum(t.retries for t in timings),
        bytes_moved=sum(t.bytes_moved for t in timings),
        trace_id=first.trace_id,
        groups_asked=_sum(t.groups_asked for t in timings),
        groups_left=_sum(t.groups_left for t in timings),
        spans=tuple(span for t in timings for span in t.spans),
    )


def timing_headers(whole: Timing, each: Mapping[str, Timing | None]) -> dict[str, str]:
    """Return the timing for browsers' tools, and whole for programs.

    Args:
        whole: of all tensors.
        each: of each by name, None where all were projected together; where there are several, the first ones' are
            told too.
    """
    found = whole.as_dict()
    if len(each) > 1:
        found["warning"] = _warning(each) or whole.warning
        found["tensors"] = [
            {"name": name[:_NAME_SHOWN], **({key: getattr(timing, key) for key in _SHOWN} if timing else {})}
            for name, timing in list(each.items())[:_TENSORS_SHOWN]
        ]
        found["tensors_projected"] = len(each)
    return {
        "Server-Timing": server_timing(whole),
        "X-Normtree-Timing": to_json(found),
    }


def server_timing(timing: Timing) -> str:
    """Return the stages as browsers' tools show them, in milliseconds."""
    stages_ms = timing.stages_ms
    return _template(tuple(stages_ms)) % tuple(stages_ms.values())


def flatten(prefix: str, value: object) -> dict[str, str | int | float | bool]:
    """Return nested values as scalars by names joined with ``_``, as the Open Inference Protocol wants parameters."""
    found: dict[str, str | int | float | bool] = {}
    _flatten_into(found, prefix, value)
    return found


def to_json(value: object) -> str:
    """Return JSON for a header: ASCII, on one line."""
    text = pydantic_core.to_json(value).decode()
    return text if text.isascii() else json.dumps(value, separators=(",", ":"))


@cache
def _template(stages: tuple[str, ...]) -> str:
    """Return the text that stages' times are set into; a way through the service always has the same stages."""
    return ", ".join([f"{stage};dur=%.3f" for stage in stages])


def _flatten_into(found: dict[str, str | int | float | bool], name: str, value: object) -> None:
    if isinstance(value, str | int | float):
        found[name] = value
    elif isinstance(value, Mapping):
        for key, below in value.items():
            _flatten_into(found, f"{name}_{key}", below)
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        _flatten_into(found, name, dict(enumerate(value)))
    elif isinstance(value, list | tuple):
        found[name] = ",".join(map(str, value))
    elif value is not None:
        found[name] = str(value)


def _warning(each: Mapping[str, Timing | None]) -> str:
    """Name tensors of which something is to be known, the first ones if there are many."""
    found = [f"{name[:_NAME_SHOWN]}: {one.warning}" for name, one in each.items() if one and one.warning]
    more = [f"and {len(found) - _WARNED} more tensors"] if len(found) > _WARNED else []
    return "; ".join([*found[:_WARNED], *more])


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Add numbers, none of which may be missing."""
    known = list(numbers)
    return None if None in known else sum(filter(None, known))


def _add_level(levels: Sequence[LevelTiming]) -> LevelTiming:
    wall_ms, nbytes = sum(level.wall_ms for level in levels), sum(level.bytes for level in levels)
    return LevelTiming(
        norm=levels[0].norm,
        tasks=sum(level.tasks for level in levels),
        wall_ms=wall_ms,
        work_ms=sum(level.work_ms for level in levels),
        span_ms=sum(level.span_ms for level in levels),
        bytes=nbytes,
        gb_per_s=nbytes / (wall_ms * 1e6) if wall_ms else 0.0,
    )


def _join(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))
