"""Lists by what images look like: which entry counts, in a policy and in files of several forms."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moderate.errors import PolicyError
from moderate.policy.batch import Batch, Judged, Subject, UndecidedRow
from moderate.policy.judge import Judge
from moderate.policy.load import load_policy, parse_policy
from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Decision,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    PdqHash,
    Warn,
)

PLAIN = load_policy("balanced").text.partition("[[rating]]")[0]
SHA256 = hashlib.sha256(b"a").hexdigest()
BITS = np.random.default_rng(0).bytes(32)
DIGITS = BITS.hex()
DAY = date(2026, 6, 1)
NOTHING = dict.fromkeys(CATEGORIES, 0.0)

Load = Callable[..., Any]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a policy with more after balanced's own keys, or a file of blocked or cleared ones."""

    def loaded(more: str = "", **files: str) -> Any:
        top = ""
        for name, text in files.items():
            (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
            top += f'{name}_file = "{name}.csv"\n'
        policy = tmp_path / "mine.toml"
        policy.write_text(f"{top}\n{PLAIN}\n{more}", encoding="utf-8")
        return load_policy(str(policy))

    return loaded


def away(distance: int, quality: int = 100, bits: bytes = BITS) -> PdqHash:
    """The hash of a picture that differs in so many bits."""
    flipped = int.from_bytes(bits) ^ ((1 << distance) - 1)
    return PdqHash(flipped.to_bytes(32), quality)


def judged(
    judge: Judge,
    hashed: PdqHash | None,
    sha256: str | None = None,
    warnings: tuple[Warn, ...] = (),
    error: ImageError | None = None,
) -> Judged:
    scores = UNSCORED if error else NOTHING
    return judge.judge(Subject(b"./a.jpg", {}, sha256, hashed), scores, warnings, error)


def entry(table: str, **values: Any) -> str:
    values = {"reason": "seen", **values}
    if table == "ignore":
        values.setdefault("expires", date(2027, 1, 1))
    shown = {name: f'"{v}"' if isinstance(v, str) else v for name, v in values.items()}
    return f"[[{table}]]\n" + "".join(f"{name} = {value}\n" for name, value in shown.items())


def judge_of(text: str) -> Judge:
    return Judge(parse_policy(f"{PLAIN}\n{text}", "mine.toml").policy, today=DAY)


def test_versions_up_to_the_distance_are_blocked_and_the_reason_says_by_which_entry() -> None:
    judge = judge_of(entry("block", pdq=DIGITS.upper(), reason="known; bad"))
    found = judged(judge, away(31))
    assert found.decision is Decision.BLOCK
    assert found.reasons == (f"block list: known, bad (PDQ {DIGITS[:16]}, distance 31 of 31)",)
    assert found.listed == "block"
    assert judged(judge, away(32)).decision is Decision.APPROVE
    assert judged(judge, away(0, quality=50)).decision is Decision.BLOCK
    assert judged(judge, away(0, quality=49)).decision is Decision.APPROVE
    assert judged(judge, None).decision is Decision.APPROVE


@pytest.mark.parametrize("distance", [0, 12, 31, 32, 200, 256])
def test_each_entry_has_its_own_distance_and_quality(distance: int) -> None:
    judge = judge_of(entry("block", pdq=DIGITS, distance=distance, quality=10))
    assert judged(judge, away(distance, quality=10)).decision is Decision.BLOCK
    assert judged(judge, away(distance, quality=9)).decision is Decision.APPROVE
    if distance < 256:
        assert judged(judge, away(distance + 1)).decision is Decision.APPROVE


def test_the_nearest_entry_counts() -> None:
    nearer = away(10).bits.hex()
    text = entry("block", pdq=DIGITS) + entry("block", pdq=nearer, reason="nearer")
    found = judged(judge_of(text), away(9))
    assert found.reasons == (f"block list: nearer (PDQ {nearer[:16]}, distance 1 of 31)",)


def test_what_is_cleared_is_approved_until_it_expires_and_only_if_it_was_scored() -> None:
    judge = judge_of(entry("ignore", pdq=DIGITS, distance=5))
    found = judged(judge, away(5))
    assert found.reasons == (
        f"cleared until 2027-01-01: seen (PDQ {DIGITS[:16]}, distance 5 of 5)",
    )
    failed = ImageError(ErrorCode.TRUNCATED, "cut")
    assert judged(judge, away(0), error=failed).decision is Decision.REVIEW
    expired = judge_of(entry("ignore", pdq=DIGITS, expires=DAY))
    assert not expired.compares_hashes
    assert expired.notes() == ["1 entry of the ignore list has expired: without effect."]


@pytest.mark.parametrize(
    "warning",
    [
        Warn.ANIMATED,
        Warn.MULTI_PICTURE,
        Warn.PARTLY_SCORED,
        Warn.EMBEDDED_CONTENT,
        Warn.ALPHA_AMBIGUOUS,
    ],
)
def test_a_file_that_may_show_something_else_is_not_cleared_by_its_first_picture(
    warning: Warn,
) -> None:
    ignored = judge_of(entry("ignore", pdq=DIGITS))
    assert judged(ignored, away(0)).listed == "ignore"
    assert judged(ignored, away(0), warnings=(warning,)).listed is None
    assert judged(judge_of(entry("block", pdq=DIGITS)), away(0), None, (warning,)).listed == "block"


def test_no_list_clears_what_the_second_weights_could_not_score() -> None:
    failed = (Warn.NO_SECOND_OPINION,)
    for listed in (entry("ignore", pdq=DIGITS), entry("ignore", sha256=SHA256)):
        assert judged(judge_of(listed), away(0), SHA256).decision is Decision.APPROVE
        assert judged(judge_of(listed), away(0), SHA256, failed).decision is Decision.REVIEW
    blocked = judge_of(entry("block", sha256=SHA256))
    assert judged(blocked, away(0), SHA256, failed).decision is Decision.BLOCK


def test_the_block_list_wins_by_whichever_hash() -> None:
    both = entry("ignore", pdq=DIGITS) + entry("block", pdq=DIGITS)
    assert judged(judge_of(both), away(3)).listed == "block"
    by_content = entry("ignore", sha256=SHA256) + entry("block", pdq=DIGITS)
    assert judged(judge_of(by_content), away(3), SHA256).listed == "block"
    assert judged(judge_of(by_content), away(90), SHA256).listed == "ignore"
    by_look = entry("ignore", pdq=DIGITS) + entry("block", sha256=SHA256)
    assert judged(judge_of(by_look), away(3), SHA256).listed == "block"
    one = judge_of(entry("block", pdq=DIGITS, sha256=SHA256))
    assert judged(one, away(90), SHA256).reasons == ("block list: seen",)
    assert judged(one, away(0)).decision is Decision.BLOCK


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (entry("block", pdq=DIGITS[:-1]), "block.0.pdq: a PDQ hash has 64 hexadecimal digits"),
        (entry("block", pdq="g" * 64), "block.0.pdq: a PDQ hash has 64"),
        (entry("block", pdq=DIGITS, distance=257), "block.0.distance"),
        (entry("block", pdq=DIGITS, distance=-1), "block.0.distance"),
        (entry("block", pdq=DIGITS, distance=3.5), "block.0.distance"),
        (entry("block", pdq=DIGITS, quality=101), "block.0.quality"),
        (entry("block", pdq=DIGITS, distance="31"), "block.0.distance"),
        (entry("block"), "block.0: names no image: give it a sha256, a pdq, or both"),
        (entry("block", sha256=SHA256, distance=3), "block.0: distance and quality go with a pdq"),
        (entry("block", pdq=DIGITS) + entry("block", pdq=DIGITS.upper(), reason="other"),
         f"block: entries for {DIGITS} contradict each other"),
        (entry("ignore", pdq=DIGITS) + entry("ignore", pdq=DIGITS, distance=30),
         f"ignore: entries for {DIGITS} contradict each other"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_refused_with_its_key(text: str, told: str) -> None:
    with pytest.raises(PolicyError) as caught:
        judge_of(text)
    assert told in str(caught.value)


def test_entries_of_a_sha256_alone_are_recorded_as_ever() -> None:
    policy = parse_policy(f"{PLAIN}\n{entry('block', sha256=SHA256)}", "mine.toml").policy
    assert policy.model_dump()["block"] == ({"sha256": SHA256, "reason": "seen"},)
    policy = parse_policy(f"{PLAIN}\n{entry('block', pdq=DIGITS)}", "mine.toml").policy
    (kept,) = policy.model_dump()["block"]
    assert kept == {"pdq": DIGITS, "distance": 31, "quality": 50, "reason": "seen"}
    assert type(policy).model_validate_json(policy.model_dump_json()) == policy


def test_by_columns_as_one_by_one() -> None:
    random = np.random.default_rng(1)
    text = entry("ignore", pdq=away(200).bits.hex(), distance=9) + entry("ignore", sha256=SHA256)
    for number in range(40):
        text += entry(
            "block", pdq=random.bytes(32).hex(), distance=100 + number, reason=f"{number}"
        )
    judge = judge_of(text)
    warned = [(), (Warn.ANIMATED,), (Warn.SMALL_IMAGE,)]
    rows = [
        UndecidedRow(
            ImageRef(b"%d.jpg" % number),
            ImageFacts(
                sha256=SHA256 if number % 7 == 0 else None,
                warnings=warned[number % 3],
                pdq=None
                if number % 5 == 0
                else away(200 + number % 20, number, random.bytes(32) if number % 2 else BITS),
            ),
            NOTHING,
        )
        for number in range(100)
    ]
    batch = Batch.of(rows)
    together = judge.decide(batch).rows()
    assert {each.listed for each in together} == {None, "block", "ignore"}
    for row, found in zip(rows, together, strict=True):
        subject = Subject(row.ref.display, {}, row.facts.sha256, row.facts.pdq)
        assert judge.judge(subject, row.scores, row.facts.warnings, None) == found
    some = np.array([5, 2, 77])
    assert judge.decide(batch.take(some)).rows() == [together[index] for index in some]


def test_many_entries_of_a_file_are_found_by_their_blocks(load: Load) -> None:
    random = np.random.default_rng(2)
    digits = [random.bytes(32).hex() for _ in range(6000)]
    text = "pdq,reason,distance\n" + "".join(
        f"{each},x,{n % 32}\n" for n, each in enumerate(digits)
    )
    judge = Judge.of(load(block=text), today=DAY)
    for number in (0, 31, 4097, 5999):
        limit = number % 32
        bits = bytes.fromhex(digits[number])
        reasons = judged(judge, away(limit, bits=bits)).reasons
        assert reasons == (
            f"block list: x (PDQ {digits[number][:16]}, distance {limit} of {limit})",
        )
        assert judged(judge, away(limit + 1, bits=bits)).decision is Decision.APPROVE


def test_both_hashes_in_one_file_of_our_own(load: Load) -> None:
    text = (
        "sha256,pdq,distance,quality,reason,expires\n"
        f"{SHA256},,,,by bytes,2027-01-01\n,{DIGITS},4,20,by look,2027-01-01\n"
    )
    judge = Judge.of(load(ignore=text), today=DAY)
    assert judged(judge, None, SHA256).reasons == ("cleared until 2027-01-01: by bytes",)
    assert "by look" in judged(judge, away(4, 20)).reasons[0]
    assert judged(judge, away(5)).listed is None


def test_a_list_exported_from_threatexchange(load: Load) -> None:
    md5 = "0" * 32
    text = (
        "id,type,indicator,tags\n"
        f'1,HASH_PDQ,{DIGITS},"media_type_photo, example"\n'
        f"2,HASH_SHA256,{SHA256},\n"
        f"3,HASH_MD5,{md5},x\n4,HASH_MD5,{md5},x\n5,HASH_TMK,abc,x\n"
        f"6,HASH_PDQ,{DIGITS},again with other tags\n"
    )
    loaded = load(block=text)
    judge = Judge.of(loaded, today=DAY)
    assert judged(judge, away(31)).reasons == (
        "block list: media_type_photo, example "
        f"(PDQ {DIGITS[:16]}, distance 31 of 31)",
    )  # fmt: skip
    assert judged(judge, None, SHA256).reasons == ("block list: listed in block.csv",)
    assert judge.notes() == [
        "block_file block.csv: 3 entries have no SHA-256 and no PDQ hash and so no effect "
        "(md5 2, tmk 1)."
    ]
    assert loaded.policy.list_files["block_file"].model_dump() == {
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "entries": 3,
        "not_compared": 3,
    }


def test_a_list_with_a_column_for_each_kind_of_hash(load: Load) -> None:
    md5, sha1 = "0" * 32, "1" * 40
    text = (
        "MD5,SHA1,SHA256,PDQ,Classification\n"
        f"{md5},{sha1},{SHA256},{DIGITS},A1\n{md5},,,,A1\n{md5},{sha1},,,A1\n,,,,\n"
    )
    judge = Judge.of(load(block=text), today=DAY)
    assert judged(judge, None, SHA256).reasons == ("block list: A1",)
    assert "A1 (PDQ" in judged(judge, away(1)).reasons[0]
    (note,) = judge.notes()
    assert "3 entries have no SHA-256 and no PDQ hash" in note
    assert "md5, sha1 1" in note


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"pdq,reason\n{DIGITS[:-1]},x\n", "line 2: a PDQ hash has 64 hexadecimal digits"),
        (f"pdq,reason,distance\n{DIGITS},x,257\n", "line 2: distance: use 0 to 256, not '257'"),
        (f"pdq,reason,distance\n{DIGITS},x,-1\n", "line 2: distance: use 0 to 256, not '-1'"),
        (f"pdq,sha256,reason,quality\n,{SHA256},x,9\n", "line 2: quality goes with a pdq"),
        ("pdq,sha256,reason\n,,x\n", "line 2: a SHA-256 has 64"),
        (f"pdq,reason\n{DIGITS},x\n{DIGITS},y\n", "line 3: contradicts another entry"),
        (f"pdq,pdq,reason\n{DIGITS},,x\n", "see pdq"),
        (f"type,indicator,tags\nHASH_PDQ,{DIGITS}0,x\n", "line 2: a PDQ hash has 64"),
        ("type,tags\nHASH_PDQ,x\n", "must name the columns sha256, reason once each"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_its_line(load: Load, text: str, told: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load(block=text)
    assert "block_file block.csv" in str(caught.value)
    assert told in str(caught.value)


def test_a_shared_list_clears_nothing_without_a_day(load: Load) -> None:
    with pytest.raises(PolicyError, match="see expires"):
        load(ignore=f"md5,pdq\n,{DIGITS}\n")
