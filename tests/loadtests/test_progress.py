"""A run tells how long it will still take, and goes on when a part fails."""

from pathlib import Path

import pytest
from tools.progress import Progress


class Clock:
    """Stands until it is moved."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_time_left_is_of_this_part_and_those_to_come() -> None:
    clock = Clock()
    lines: list[str] = []
    progress = Progress({"one": 60.0, "two": 30.0, "three": 10.0}, lines.append, clock)
    assert progress.left_s == 100
    progress.begin("one")
    clock.now_s += 20
    assert progress.left_s == 80
    clock.now_s += 70  # it takes longer than planned
    assert progress.left_s == 40
    progress.end()
    progress.begin("two")
    clock.now_s += 5
    progress.say("half of it")
    progress.end("broke")
    assert progress.left_s == 10
    assert ["part 1 of 3, about 60 s" in lines[0], "done in 90 s" in lines[1]] == [True, True]
    assert lines[3].endswith("two: half of it  [35 s left]")
    assert lines[4].endswith("two: failed after 5 s: broke  [10 s left]")


def test_a_part_that_fails_keeps_no_other_from_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the pictures need the bench extra")
    import load

    ran = []

    def good(run: load.Run) -> None:
        ran.append(run.out)

    def bad(run: load.Run) -> None:
        raise ValueError("no wire")

    parts = {"first": load.Part(bad, 1, 1), "second": load.Part(good, 1, 1)}
    monkeypatch.setattr(load, "PARTS", parts)
    lines: list[str] = []
    run = load.Run(tmp_path, True, 1.0, False, 2**20, "", lines.append)
    assert load.run_all(["first", "second"], run, Progress({"first": 1, "second": 1}, lines.append)) == ["first"]
    assert ran == [tmp_path]
    assert any("failed after 0 s: ValueError: no wire" in line for line in lines)
    monkeypatch.setattr("sys.argv", ["load.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="failed: first"):
        load.main()
    assert (tmp_path / "report.html").exists()
