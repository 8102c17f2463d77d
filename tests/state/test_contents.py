"""Each content of a run belongs to the first that has it, whatever came in first."""

from __future__ import annotations

import hashlib
import threading

from moderate.state.contents import Claim, Contents
from moderate.state.records import Outcome
from moderate.types import CATEGORIES, ImageFacts

A, B, C = (hashlib.sha256(name).digest() for name in (b"a", b"b", b"c"))


def test_the_first_owns_it() -> None:
    contents = Contents()
    assert contents.claim(A, 0, b"./one") == Claim(owner=True, first=None, reused=False)
    assert contents.claim(A, 1, b"./two") == Claim(owner=False, first=b"./one", reused=False)
    assert contents.claim(B, 2, b"./three", reused=True) == Claim(True, None, True)
    assert contents.claim(B, 3, b"./four") == Claim(False, b"./three", True)
    assert not contents.out_of_order


def test_what_stands_first_is_first_even_if_it_comes_late() -> None:
    contents = Contents()
    assert contents.claim(A, 9, b"nine").owner
    late = contents.claim(A, 4, b"four")
    assert (late.owner, late.first) == (False, None)
    assert contents.out_of_order
    assert contents.claim(A, 6, b"six").first == b"four"
    assert contents.first(A, 9) == b"four"
    assert contents.first(A, 4) is None
    assert contents.first(B, 4) is None


def test_many_at_once() -> None:
    contents = Contents()
    assert contents.claim_all([(A, 0, b"a"), (B, 1, b"b")]) is None
    claims = contents.claim_all([(C, 2, b"c"), (A, 3, b"again"), (C, 4, b"c again")])
    assert claims == [Claim(True, None, True), Claim(False, b"a", True), Claim(False, b"c", True)]


def test_outcomes_are_there_once_they_are_settled() -> None:
    contents = Contents()
    contents.claim(A, 0, b"a")
    assert contents.outcome(A) is None
    outcome = Outcome(ImageFacts(sha256=A.hex()), dict.fromkeys(CATEGORIES, 0.5))
    contents.settle(A, outcome)
    assert contents.outcome(A) == outcome
    assert contents.outcome(B) is None


def test_threads_agree_on_one_owner() -> None:
    contents = Contents()
    keys = [hashlib.sha256(str(number).encode()).digest() for number in range(500)]
    owned: list[bytes] = []

    def claim(base: int) -> None:
        for index, key in enumerate(keys):
            if contents.claim(key, base + index, b"%d" % base).owner:
                owned.append(key)

    threads = [threading.Thread(target=claim, args=(base,)) for base in (0, 1000, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(owned) == sorted(keys)
    assert all(contents.first(key, 5000) == b"0" for key in keys)


def test_a_run_commits_nothing_however_many_images_it_has() -> None:
    """A commit goes through all that is in the cache: one per image, and the rate falls."""
    contents = Contents()
    statements: list[str] = []
    outside: list[str] = []

    def traced(statement: str) -> None:
        statements.append(statement)
        if not contents._connection.in_transaction:
            outside.append(statement)

    contents._connection.set_trace_callback(traced)
    outcome = Outcome(ImageFacts(), dict.fromkeys(CATEGORIES, 0.5))
    for number in range(1000):
        key = hashlib.sha256(b"%d" % number).digest()
        assert contents.claim(key, number, b"./%d" % number).owner
        contents.settle(key, outcome)
        contents.claim_all([(key, number + 1, b"./again")])
        assert contents.outcome(key) is not None
    # A statement outside of a transaction is one of its own.
    assert outside == []
    assert len(statements) >= 4000
    assert not any(word in text for text in statements for word in ("COMMIT", "BEGIN", "SAVEPOINT"))


def test_known_contents_and_others_are_each_others_copies() -> None:
    contents = Contents()
    assert contents.claim(A, 0, b"new") == Claim(True, None, False)
    claims = contents.claim_all([(B, 1, b"b"), (A, 2, b"copy"), (C, 3, b"c")])
    assert claims == [Claim(True, None, True), Claim(False, b"new", False), Claim(True, None, True)]
    assert contents.claim(C, 4, b"c again") == Claim(False, b"c", True)
    assert contents.first(C, 4) == b"c"
    assert contents.first(B, 2) == b"b"
    assert contents.first(B, 1) is None
    assert not contents.out_of_order
    assert contents.claim(B, 0, b"before") == Claim(False, None, True)
    assert contents.out_of_order
    assert contents.claim_all([(B, 5, b"b again")]) == [Claim(False, b"before", True)]


def test_contents_whose_digests_begin_alike_are_no_copies() -> None:
    """Whoever makes them needs 2**32 attempts, which is no more than a day."""
    contents = Contents()
    alike = [A[:8] + B[8:], A[:8] + C[8:]]
    assert contents.claim_all([(A, 0, b"a"), (alike[0], 1, b"x")]) == [Claim(True, None, True)] * 2
    assert contents.claim(alike[1], 2, b"y").owner
    for number, digest in enumerate((A, *alike)):
        first = (b"a", b"x", b"y")[number]
        claims = contents.claim_all([(digest, 3 + number, b"again")])
        assert claims == [Claim(False, first, number < 2)]


def test_paths_that_cannot_be_joined_are_claimed_one_by_one() -> None:
    contents = Contents()
    claims = contents.claim_all([(A, 0, b"a\0b"), (B, 1, b"c")])
    assert claims == [Claim(True, None, True)] * 2
    assert contents.claim(A, 2, b"again").first == b"a\0b"
    assert contents.claim(B, 3, b"again").first == b"c"
