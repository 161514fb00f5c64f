"""Cancelling: set once, and told to who watches."""

from normtree.engine.cancel import Cancel


def test_who_watches_is_told_once() -> None:
    cancel, told = Cancel(), []
    with cancel.watched_by(lambda: told.append(1)):
        cancel.set()
        cancel.set()
    assert cancel.is_set
    assert told == [1]


def test_who_watches_too_late_is_told_at_once() -> None:
    cancel, told = Cancel(), []
    cancel.set()
    with cancel.watched_by(lambda: told.append(1)):
        assert told == [1]


def test_who_has_stopped_watching_is_not_told() -> None:
    cancel, told = Cancel(), []
    with cancel.watched_by(lambda: told.append(1)):
        pass
    cancel.set()
    assert not told
