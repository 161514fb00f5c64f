"""The pictures of a report, as SVG that stands in a page: no script, no file, no font of its own."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from operator import itemgetter
from typing import Any

from normtree.jobs.plan.facts import BINS, OCTAVES, Facts
from normtree.text.printable import printable

WIDTH = 920
_LEFT, _TOP, _BOTTOM = 56, 16, 26
_NAMED = 48  # so many tensors are shown by name, one bar below the other
_MOST_BARS = 432  # of more tensors neighbours share a bar: narrower ones nobody sees
_MOST_STINTS = 8000  # likewise of what workers did
_RATE_BINS = 80
_KINDS = ("copy", "whole", "up", "round", "down")
_COLOURS = 6  # classes c0 … c5 of the page


def text(value: object) -> str:
    """Escape a text for the page."""
    return escape(printable(str(value)))


def row(*cells: object) -> str:
    """Draw a row of a table."""
    return "<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in cells) + "</tr>"


def sparsity(facts: Sequence[Facts], rules: int) -> str:
    """Draw the share of outermost groups that is zero, tensor by tensor in the order of the files."""
    shares = [each.zero_groups[0] / each.groups[0] if each.groups[0] else 0.0 for each in facts]
    if len(facts) <= _NAMED:
        return _named_bars(facts, shares)
    runs = _runs(len(facts), _MOST_BARS)
    height, wide = 180, (WIDTH - _LEFT) / len(runs)
    bars = []
    for i, (first, last) in enumerate(runs):
        share = sum(shares[first:last]) / (last - first)
        name = facts[first].name if last - first == 1 else f"{facts[first].name} to {facts[last - 1].name}, on average"
        kind = f"c{facts[first].rule % _COLOURS}"
        bars.append(
            _bar(_LEFT + i * wide, height * (1 - share), max(wide - 0.5, 0.5), height * share, kind,
                 f"{name}: {share:.1%}")
        )  # fmt: skip
    marks = [_mark(height * (1 - share), f"{share:.0%}") for share in (0.0, 0.5, 1.0)]
    shared = f", neighbours together in {len(runs)} bars" if len(runs) < len(facts) else ""
    told = f"{len(facts)} tensors, {rules} rules{shared}"
    return _svg(height + _BOTTOM, [*marks, *bars, _label(_LEFT, height + 18, told)])


def histogram(title: str, counts: Sequence[int], rule: int, *, threshold: bool) -> str:
    """Draw how the norms of a rule's outermost groups spread about the threshold."""
    first, last = _occupied(counts)
    height, wide, most = 150, (WIDTH - _LEFT) / (last - first), max(counts, default=0) or 1
    middle = _LEFT + wide * (BINS / 2 - first)
    bars = []
    for i in range(first, last):
        tall = height * counts[i] / most
        kind = "gone" if threshold and i < BINS // 2 else f"c{rule % _COLOURS}"
        low, high = (2.0 ** ((edge - BINS / 2) * 2 * OCTAVES / BINS) for edge in (i, i + 1))
        told = f"{counts[i]:,} groups of {low:.3g} to {high:.3g} times"
        bars.append(_bar(_LEFT + (i - first) * wide, height - tall, wide - 1, tall, kind, told))
    line = f'<line x1="{middle:.1f}" y1="0" x2="{middle:.1f}" y2="{height}" class="line"/>'
    name = "threshold: groups up to it vanish" if threshold else "mean norm"
    ticks = [
        _label(
            _LEFT + wide * (BINS * (0.5 + octave / (2 * OCTAVES)) - first), height + 18, f"{2.0**octave:g}×", "middle"
        )
        for octave in range(-int(OCTAVES), int(OCTAVES) + 1)
        if first <= BINS * (0.5 + octave / (2 * OCTAVES)) <= last
    ]
    below = "".join([_mark(0, f"{most:,}"), _mark(height, "0"), *bars, line, *ticks])
    parts = [
        _label(middle, 10, name, "middle"),
        _label(0, 10, "groups"),
        f'<g transform="translate(0 {_TOP})">{below}</g>',
    ]
    return f"<h3>{text(title)}</h3>" + _svg(_TOP + height + _BOTTOM, parts)


def legend(names: Iterable[str]) -> str:
    """Name the rules beside their colours."""
    keys = (f'<span class="key c{i % _COLOURS}"></span>{text(name)} ' for i, name in enumerate(names))
    return f"<p>{''.join(keys)}</p>"


def timeline(stints: Sequence[dict[str, Any]]) -> str:
    """Draw when each worker did what."""
    if not stints:
        return "<p>Nothing was left to do in this run.</p>"
    workers = {worker: i for i, worker in enumerate(sorted({stint["worker"] for stint in stints}))}
    start, stop = _extent(stints)
    lane, scale = 22, (WIDTH - _LEFT) / (stop - start)
    height = lane * len(workers)
    least_ns = (stop - start) * len(workers) / _MOST_STINTS if len(stints) > _MOST_STINTS else 0.0
    bars = [
        _bar(
            _LEFT + (some[0]["start_ns"] - start) * scale, lane * workers[some[0]["worker"]] + 2,
            max((some[-1]["stop_ns"] - some[0]["start_ns"]) * scale - 0.3, 0.3), lane - 4, f"kind-{some[0]['kind']}",
            _done(some[0]) if len(some) == 1 else f"{len(some)} tasks, the first: {_done(some[0])}",
        )
        for some in _gathered(stints, least_ns)
    ]  # fmt: skip
    names = [_label(0, lane * i + 15, f"w{i}") for i in range(len(workers))]
    legend = "".join(f'<span class="key kind-{kind}"></span>{kind} ' for kind in _KINDS)
    return _svg(height + _BOTTOM, [*names, *bars, *_seconds(height, stop - start)]) + f"<p>{legend}</p>"


def rate(stints: Sequence[dict[str, Any]], floor: float | None) -> str:
    """Draw the bytes written a second, and the rate of a mere copy."""
    if not stints:
        return "<p>Nothing was left to do in this run.</p>"
    start, stop = _extent(stints)
    height, step = 170, (stop - start) / _RATE_BINS
    written = [0.0] * _RATE_BINS
    for stint in stints:
        took = max(stint["stop_ns"] - stint["start_ns"], 1)
        first, last = (int((stint[end] - start) / step) for end in ("start_ns", "stop_ns"))
        for i in range(first, min(last + 1, _RATE_BINS)):
            low, high = start + i * step, start + (i + 1) * step
            shared = max(0.0, min(high, stint["stop_ns"]) - max(low, stint["start_ns"]))
            written[i] += stint["written"] * shared / took
    rates = [1e9 * nbytes / step for nbytes in written]
    most = 1.1 * max(*rates, floor or 0.0, 1.0)
    wide = (WIDTH - _LEFT) / _RATE_BINS
    bars = [
        _bar(_LEFT + i * wide, height * (1 - r / most), wide - 0.5, height * r / most, "c0", f"{r / 1e9:.2f} GB/s")
        for i, r in enumerate(rates)
    ]
    parts = [*bars, *_seconds(height, stop - start), _mark(0, f"{most / 1e9:.1f} GB/s"), _mark(height, "0")]
    if floor:
        y = height * (1 - floor / most)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{WIDTH}" y2="{y:.1f}" class="line"/>')
        parts.append(_label(WIDTH - 4, 11, f"dashed: a mere copy, synced, {floor / 1e9:.2f} GB/s", "end"))
    return _svg(height + _BOTTOM, parts)


def _named_bars(facts: Sequence[Facts], shares: Sequence[float]) -> str:
    lane, left = 17, 380
    scale = WIDTH - left - 60
    parts = []
    for i, (each, share) in enumerate(zip(facts, shares, strict=True)):
        y = lane * i
        parts.append(_label(left - 8, y + 12, each.name[-58:], "end"))
        parts.append(_bar(left, y + 2, scale, lane - 5, "track", each.name))
        parts.append(
            _bar(left, y + 2, scale * share, lane - 5, f"c{each.rule % _COLOURS}", f"{each.name}: {share:.2%}")
        )
        parts.append(_label(left + scale + 6, y + 12, f"{share:.1%}"))
    return _svg(lane * max(len(facts), 1) + 4, parts)


def _runs(count: int, most: int) -> list[tuple[int, int]]:
    """Cut so many neighbours into runs of about the same length, one each if there are no more than ``most``."""
    parts = min(count, most)
    return [(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


def _gathered(stints: Sequence[dict[str, Any]], least_ns: float) -> Iterator[list[dict[str, Any]]]:
    """Go through what each worker did, that together which began within so short a time."""
    some: list[dict[str, Any]] = []
    for stint in sorted(stints, key=itemgetter("worker", "start_ns")):
        if some and (stint["worker"] != some[0]["worker"] or stint["start_ns"] >= some[0]["start_ns"] + least_ns):
            yield some
            some = []
        some.append(stint)
    yield some


def _done(stint: dict[str, Any]) -> str:
    """Say what a worker did."""
    return (
        f"{stint['kind']} of {stint['shard']}: {(stint['stop_ns'] - stint['start_ns']) / 1e6:.1f} ms, "
        f"{stint['read']:,} bytes read, {stint['written']:,} written, by {stint['worker']}"
    )


def _occupied(counts: Sequence[int]) -> tuple[int, int]:
    """The bins that are worth showing: those with groups, and two doublings to either side of the middle at least."""
    near = round(2 * BINS / (2 * OCTAVES))
    full = [i for i, count in enumerate(counts) if count]
    return min([BINS // 2 - near, *full[:1]]), max([BINS // 2 + near, *(i + 1 for i in full[-1:])])


def _extent(stints: Sequence[dict[str, Any]]) -> tuple[int, int]:
    start = min(stint["start_ns"] for stint in stints)
    return start, max(start + 1, *(stint["stop_ns"] for stint in stints))


def _seconds(height: float, took_ns: int) -> list[str]:
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    anchors = ("start", "middle", "middle", "middle", "end")
    return [
        _label(_LEFT + (WIDTH - _LEFT) * share, height + 18, f"{share * took_ns / 1e9:.2f} s", anchor)
        for share, anchor in zip(shares, anchors, strict=True)
    ]


def _svg(height: float, parts: Iterable[str]) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" xmlns="http://www.w3.org/2000/svg">{body}</svg>'


def _bar(x: float, y: float, width: float, height: float, kind: str, title: str) -> str:
    where = f'x="{x:.2f}" y="{y:.2f}" width="{max(width, 0):.2f}" height="{max(height, 0):.2f}"'
    return f'<rect {where} class="{kind}"><title>{text(title)}</title></rect>'


def _mark(y: float, label: str) -> str:
    line = f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{WIDTH}" y2="{y:.1f}" class="grid"/>'
    return line + _label(_LEFT - 6, min(max(y + 4, 10), y + 10), label, "end")


def _label(x: float, y: float, label: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(label)}</text>'
