"""Heads: headers by name, and several of one name as the one list that they are."""

from normtree.http.head.head import read_head


def test_headers_are_found_by_name() -> None:
    head = read_head([(b"host", b"x"), (b"accept", b"\xe9")])
    assert head == {"host": "x", "accept": "é"}


def test_lines_of_one_name_are_one_list() -> None:
    head = read_head([(b"accept", b"a"), (b"host", b"x"), (b"accept", b"b;q=0.5, c")])
    assert head == {"accept": "a, b;q=0.5, c", "host": "x"}
