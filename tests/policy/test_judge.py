"""Overrides and lists: whose thresholds count for a row, what is cleared, and what is blocked."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderate.errors import PolicyError
from moderate.policy.batch import Subject, UndecidedRow
from moderate.policy.judge import Judge
from moderate.policy.load import PRESETS, LoadedPolicy, load_policy, parse_policy, resolve
from moderate.policy.model import MOST_LISTED, Policy
from moderate.policy.reasons import at_place
from moderate.policy.rows import decide_rows
from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Category,
    Decision,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Scores,
    Warn,
)
from tests.support.oracle import decide, views

BALANCED = load_policy("balanced")
STRICT = load_policy("strict").policy
PLAIN = BALANCED.text.partition("[[rating]]")[0]
A, B, C = (hashlib.sha256(name).hexdigest() for name in (b"a", b"b", b"c"))
DAY = date(2026, 6, 1)
ERROR = ImageError(ErrorCode.TRUNCATED, "cut")

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes balanced's text with more after its own keys, and other files; the policy's path."""

    def written(more: str = "", top: str = "", **files: str) -> str:
        for name, text in files.items():
            (tmp_path / name.replace("_", ".")).write_text(text, encoding="utf-8")
        policy = tmp_path / "mine.toml"
        policy.write_text(f"{top}\n{PLAIN}\n{more}", encoding="utf-8")
        return str(policy)

    return written


def subject(path: str = "./a.jpg", sha256: str | None = None, **columns: Any) -> Subject:
    return Subject(path.encode(), columns, sha256)


def scores(default: float | None = 0.0, **changes: float | None) -> Scores:
    """Scores in float32."""
    every = {**dict.fromkeys(CATEGORIES, default), **{Category(k): v for k, v in changes.items()}}
    return {name: None if v is None else float(np.float32(v)) for name, v in every.items()}


def judge(text: str, **options: Any) -> Judge:
    return Judge(parse_policy(f"{PLAIN}\n{text}", "mine.toml").policy, **options)


AVATARS = """
[[override]]
name = "avatars"
when = "avatars/**"
policy = "strict"
"""
MEDICAL = """
[[override]]
when = "medical/**"
on_error = "block"
on_unscored = "review"
on_warning = { small_image = "block" }
bands = { nsfw_above = 0.9 }
rating = [
    { value = "clinical", description = "As expected." },
    { value = "odd", description = "Look.", any = { violence = 0.5 } },
]
[override.categories]
nudity = { review = 0.9, block = 1.0 }
violence = { block = 0.95 }
"""


def test_the_first_override_that_matches_applies() -> None:
    both = judge(AVATARS + MEDICAL)
    seen = scores(nudity=0.7)
    rows = {
        "./other/a.jpg": (Decision.REVIEW, ("nudity 0.70 >= review 0.30",), None),
        "./avatars/a.jpg": (
            Decision.BLOCK, ("nudity 0.70 >= block 0.60 (override avatars)",), "avatars",
        ),
        "./medical/a.jpg": (
            Decision.APPROVE, ("nudity 0.70 < review 0.90 (override medical/**)",), "medical/**",
        ),
        "./medical/avatars/a.jpg": (
            Decision.BLOCK, ("nudity 0.70 >= block 0.60 (override avatars)",), "avatars",
        ),
    }  # fmt: skip
    for path, (decision, reasons, label) in rows.items():
        found = both.judge(subject(path), seen, (), None)
        assert (found.decision, found.reasons, found.overridden_by) == (decision, reasons, label)
        assert found.views == views(both.policy_for(subject(path)), seen)
        assert found.listed is None
    turned = judge(MEDICAL + AVATARS)
    found = turned.judge(subject("./medical/avatars/a.jpg"), seen, (), None)
    assert found.overridden_by == "medical/**"


def test_an_override_changes_what_it_says_and_nothing_else() -> None:
    made = judge(MEDICAL)
    plain, medical = made.policy_for(subject()), made.policy_for(subject("./medical/a.jpg"))
    assert plain is made.policy
    assert medical is made.policy_for(subject("./medical/b.jpg")), "one object, to group by"
    changed = medical.categories
    assert (changed[Category.NUDITY].review, changed[Category.NUDITY].block) == (0.9, 1.0)
    assert (changed[Category.VIOLENCE].review, changed[Category.VIOLENCE].block) == (0.3, 0.95)
    assert changed[Category.DRUG_USE] == plain.categories[Category.DRUG_USE]
    assert medical.on_error is Decision.BLOCK
    assert medical.on_unscored == "review"
    assert medical.on_warning == {**plain.on_warning, Warn.SMALL_IMAGE: Decision.BLOCK}
    assert medical.bands == plain.bands.model_copy(update={"nsfw_above": 0.9})
    assert [level.value for level in medical.rating] == ["clinical", "odd"]
    assert not medical.in_context
    found = made.judge(subject("./medical/a.jpg"), UNSCORED, (), ERROR)
    assert found.reasons == ("error truncated: on_error block (override medical/**)",)
    assert made.judge(subject("./x.jpg"), UNSCORED, (), ERROR).decision is Decision.REVIEW


def test_columns_and_an_override_that_nothing_matches() -> None:
    made = judge('[[override]]\nwhen = "source = forum"\npolicy = "strict"', columns=["source"])
    assert made.notes() == []
    assert made.policy_for(subject(source="forum")) == STRICT
    assert made.policy_for(subject(source="blog")) is made.policy
    assert made.policy_for(subject()) is made.policy
    refs = [ImageRef(b"a.jpg", carried=carried) for carried in (("forum",), ("blog",), ())]
    rows = decide_rows(made, [UndecidedRow(ref, ImageFacts(), scores(0.7)) for ref in refs])
    assert [row.decision for row in rows] == [Decision.BLOCK, Decision.REVIEW, Decision.REVIEW]
    without = judge('[[override]]\nwhen = "source = forum"\npolicy = "strict"')
    (note,) = without.notes()
    assert "no input carries" in note
    assert "--keep source" in note


LISTS = f"""
[[ignore]]
sha256 = "{A.upper()}"
reason = "press photo; seen"
expires = 2026-06-02
by = "anna"

[[ignore]]
sha256 = "{B}"
reason = "old"
expires = 2026-06-01

[[ignore]]
sha256 = "{C}"
reason = "was cleared"
expires = 2030-01-01

[[block]]
sha256 = "{C.upper()}"
reason = "known"
"""


def test_a_cleared_picture_is_approved_until_it_expires() -> None:
    bad = scores(nudity=0.99)
    made = judge(LISTS + AVATARS, today=DAY)
    for path in ("./a.jpg", "./avatars/a.jpg"):
        found = made.judge(subject(path, A), bad, [Warn.ALPHA_AMBIGUOUS], None)
        assert found.decision is Decision.APPROVE
        assert found.reasons == ("cleared until 2026-06-02: press photo, seen",)
        assert found.views == views(made.policy_for(subject(path)), bad), "scores stay facts"
        assert found.listed == "ignore"
    assert made.judge(subject(sha256=A.upper()), bad, (), None).decision is Decision.APPROVE
    assert made.judge(subject(sha256=B), bad, (), None).decision is Decision.BLOCK
    assert made.judge(subject(sha256=None), bad, (), None).decision is Decision.BLOCK
    assert made.notes() == ["1 entry of the ignore list has expired: without effect."]
    later = judge(LISTS, today=date(2026, 6, 2))
    assert later.judge(subject(sha256=A), bad, (), None).decision is Decision.BLOCK
    assert later.notes() == ["2 entries of the ignore list have expired: without effect."]


def test_nothing_without_scores_is_approved_and_the_block_list_wins() -> None:
    made = judge(LISTS, today=DAY)
    found = made.judge(subject(sha256=A), UNSCORED, (), ERROR)
    assert found.reasons == ("error truncated: on_error review",)
    assert made.judge(subject(sha256=A), UNSCORED, (), None).decision is Decision.REVIEW
    for some, error in ((scores(), None), (UNSCORED, ERROR)):
        found = made.judge(subject(sha256=C), some, (), error)
        assert (found.decision, found.reasons) == (Decision.BLOCK, ("block list: known",))
        assert found.listed == "block"


ALL, ALL_LISTS, _ = resolve(parse_policy(PLAIN + AVATARS + MEDICAL + LISTS, "").policy, None, "")
PATHS = st.lists(st.sampled_from(["avatars", "medical", "x"]), min_size=1, max_size=3)
SCORES = st.none() | st.floats(0, 1, width=32)


@settings(deadline=None)
@given(
    PATHS,
    st.sampled_from([None, A, B, C]),
    st.fixed_dictionaries(dict.fromkeys(CATEGORIES, SCORES)),
    st.lists(st.sampled_from(Warn), unique=True, max_size=2),
    st.booleans(),
    st.dates(date(2026, 5, 30), date(2026, 6, 4)),
)
def test_every_row_is_decided_as_plainly_defined(
    parts: list[str],
    sha256: str | None,
    some: Scores,
    warnings: list[Warn],
    failed: bool,
    today: date,
) -> None:
    made = Judge(ALL, today=today, lists=ALL_LISTS)
    expiry = {A: date(2026, 6, 2), B: date(2026, 6, 1)}
    policy = made.policy
    if "avatars" in parts:
        policy = STRICT
    elif "medical" in parts:
        policy = MEDICAL_POLICY
    some, error = (UNSCORED, ERROR) if failed else (some, None)
    path = "./" + "/".join([*parts, "a.jpg"])
    found = made.judge(subject(path, sha256), some, warnings, error)
    decision, _ = decide(policy, some, warnings, error)
    scored = any(score is not None for score in some.values())
    seen = scored and Warn.NO_SECOND_OPINION not in warnings
    if sha256 == C:
        decision = Decision.BLOCK
    elif sha256 in expiry and today < expiry[sha256] and seen:
        decision = Decision.APPROVE
    assert found.decision is decision
    assert found.views == views(policy, some)
    assert (found.decision is not Decision.APPROVE) or error is None
    assert all(found.reasons)
    assert not any("; " in reason for reason in found.reasons)
    ref, facts = ImageRef(path.encode()), ImageFacts(sha256=sha256, warnings=tuple(warnings))
    (row,) = decide_rows(made, [UndecidedRow(ref, facts, some, error)])
    assert (row.decision, row.reasons, row.views, row.bands) == found[:4]


MEDICAL_POLICY = judge(MEDICAL).policy_for(subject("./medical/a.jpg"))


@pytest.mark.parametrize("name", PRESETS)
def test_without_overrides_and_lists_it_is_decide(name: str) -> None:
    loaded = load_policy(name)
    made = Judge.of(loaded)
    seen, ref = scores(0.2, violence=0.7), ImageRef(b"a.jpg")
    expected = (*decide(loaded.policy, seen, (), None), views(loaded.policy, seen))
    assert made.judge(subject(sha256=A), seen, (), None)[:3] == expected
    (row,) = decide_rows(made, [UndecidedRow(ref, ImageFacts(sha256=A), seen)])
    assert (row.decision, row.reasons, row.views) == expected
    assert made.policy_for(subject()) is loaded.policy


def test_a_time_goes_before_the_override() -> None:
    assert at_place("nudity 0.9 >= block 0.6", "00:01") == "nudity 0.9 >= block 0.6 at 00:01"
    assert at_place("warning x (override a (b))", "00:01") == "warning x at 00:01 (override a (b))"


# Files that a policy names -----------------------------------------------------------------------


def test_policies_and_lists_beside_the_policy(write: Write, tmp_path: Path) -> None:
    file = write(
        '[[override]]\nwhen = "x/**"\npolicy = "other.toml"' + AVATARS,
        top='ignore_file = "cleared.csv"\nblock_file = "blocked.csv"',
        other_toml=PLAIN.replace("0.30", "0.05").replace('"balanced"', '"other"'),
        cleared_csv=f"\ufeffSHA256,ticket,reason,expires\n{A.upper()},7,a  photo,2026-06-02\n\n"
        f'{B},8,"two\nlines",2026-06-01\n',
        blocked_csv=f"sha256,reason\r\n{C},known\r\n{C},known\r\n",
    )
    loaded = load_policy(file)
    assert loaded.policy.list_files["ignore_file"].entries == 2
    assert loaded.policy.override[0].rules is not None
    assert loaded.policy.override[0].rules.name == "other"
    assert loaded.policy.override[1].rules == STRICT
    for made in (
        Judge.of(loaded, DAY),
        Judge(loaded.policy, str(tmp_path), DAY),
        Judge(parse_policy(loaded.text, "mine").policy, str(tmp_path), DAY),
    ):
        found = made.judge(subject(sha256=A), scores(0.9), (), None)
        assert found.reasons == ("cleared until 2026-06-02: a photo",)
        assert made.judge(subject(sha256=B), scores(0.9), (), None).decision is Decision.BLOCK
        found = made.judge(subject(sha256=C), scores(), (), None)
        assert found.reasons == ("block list: known",)
        assert made.judge(subject("./x/a.jpg"), scores(0.1), (), None).decision is Decision.REVIEW
        assert len(made.notes()) == 1
    with pytest.raises(PolicyError, match=r"relative to the policy's file"):
        Judge(parse_policy(loaded.text, "mine").policy)
    # What the audit facts hold is all that counts but the entries of files.
    again = Policy.model_validate_json(loaded.policy.model_dump_json())
    assert again == loaded.policy
    assert A not in loaded.policy.model_dump_json()
    (tmp_path / "blocked.csv").write_text("sha256,reason\n")
    with pytest.raises(PolicyError, match="block_file changed since"):
        Judge(loaded.policy, str(tmp_path))


def test_names_start_from_the_policys_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(top='block_file = "blocked.csv"', blocked_csv=f"sha256,reason\n{A},known\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for here, name in ((elsewhere, "../mine.toml"), (tmp_path, "mine.toml")):
        monkeypatch.chdir(here)
        assert load_policy(name).lists.blocked == {A: "known"}


def test_the_digest_covers_every_file_that_is_named(write: Write) -> None:
    files = {
        "other_toml": PLAIN,
        "cleared_csv": f"sha256,reason,expires\n{A},x,2030-01-01\n",
        "blocked_csv": f"sha256,reason\n{B},x\n",
    }
    top = 'ignore_file = "cleared.csv"\nblock_file = "blocked.csv"'
    more = '[[override]]\nwhen = "x/**"\npolicy = "other.toml"'
    digests = {load_policy(write(more, top, **files)).sha256 for _ in range(2)}
    assert len(digests) == 1, "the same files, the same digest"
    for name in files:
        changed = {**files, name: files[name] + "\n"}
        digests.add(load_policy(write(more, top, **changed)).sha256)
    assert len(digests) == 4
    own = load_policy(write(LISTS + MEDICAL))
    assert own.sha256 == hashlib.sha256(own.text.encode()).hexdigest(), "its text is everything"


def test_hundreds_of_thousands_of_entries_stay_out_of_the_facts(write: Write) -> None:
    lines = [f"{number:064x},known" for number in range(200_000)]
    loaded = load_policy(
        write(top='block_file = "b.csv"', b_csv="sha256,reason\n" + "\n".join(lines))
    )
    assert len(loaded.lists.blocked) == 200_000
    assert len(loaded.policy.model_dump_json()) < 4000
    assert '"entries":200000' in loaded.policy.model_dump_json()
    found = Judge.of(loaded).judge(subject(sha256=f"{199_999:064X}"), scores(), (), None)
    assert found.decision is Decision.BLOCK


IGNORE_HEAD = "sha256,reason,expires\n"


@pytest.mark.parametrize(
    ("cleared", "told"),
    [
        ("", "must name the columns sha256, reason, expires"),
        ("sha256,reason\n", "see expires"),
        ("sha256,sha256,reason,expires\n", "see sha256"),
        (IGNORE_HEAD + f"{A[:-1]},x,2030-01-01\n", "line 2: a SHA-256 has 64"),
        (IGNORE_HEAD + f"{A},,2030-01-01\n", "line 2: there is no reason"),
        (IGNORE_HEAD + f"{A},x,\n", "line 2: expires: a date is 2027-01-31, not ''"),
        (IGNORE_HEAD + f"\n{A},x,soon\x1b[31m\n", "line 3: expires"),
        (IGNORE_HEAD + f"{A},x\n", "line 2 of cleared.csv: 2 cells where the header has 3"),
        (IGNORE_HEAD + f'{A},"x', "line 2"),
        (IGNORE_HEAD + f"{A},x,2030-01-01\n{A.upper()},x,2031-01-01\n",
         f"line 3: contradicts another entry for {A}"),
        (IGNORE_HEAD + f"{B},y,2030-01-01\n", f"line 2: contradicts another entry for {B}"),
    ],
)  # fmt: skip
def test_a_wrong_list_is_refused_with_its_line(write: Write, cleared: str, told: str) -> None:
    own = f'[[ignore]]\nsha256 = "{B}"\nreason = "x"\nexpires = 2030-01-01'
    with pytest.raises(PolicyError) as caught:
        load_policy(write(own, 'ignore_file = "cleared.csv"', cleared_csv=cleared))
    message = str(caught.value)
    assert "mine.toml: ignore_file cleared.csv" in message
    assert told in message
    assert "\n" not in message
    assert "\x1b" not in message


def test_lists_that_are_no_text_or_not_there(write: Write, tmp_path: Path) -> None:
    file = write(top='block_file = "b.csv"')
    with pytest.raises(PolicyError, match="block_file cannot be read"):
        load_policy(file)
    (tmp_path / "b.csv").write_bytes(b"sha256,reason\n\xff")
    with pytest.raises(PolicyError, match="not UTF-8"):
        load_policy(file)


def test_a_policy_of_an_override_has_none_of_its_own(write: Write) -> None:
    named = '[[override]]\nwhen = "x/**"\npolicy = "other.toml"'
    for more in (AVATARS, LISTS, 'block_file = "b.csv"'):
        other = f"{more}\n{PLAIN}" if "file" in more else PLAIN + more
        with pytest.raises(PolicyError) as caught:
            load_policy(write(named, other_toml=other))
        assert "override.0.policy: other.toml has overrides or lists of its own" in str(
            caught.value
        )
    with pytest.raises(PolicyError, match=r"mine\.toml has overrides or lists"):
        load_policy(write('[[override]]\nwhen = "x/**"\npolicy = "mine.toml"'))
    with pytest.raises(PolicyError, match=r"override.0.policy: no policy 'gone.toml'"):
        load_policy(write(named.replace("other", "gone")))
    with pytest.raises(PolicyError, match=r"override.0.policy: policy other.toml: name"):
        load_policy(write(named, other_toml=PLAIN.replace('name = "balanced"', "")))


ENTRY = f'[[ignore]]\nsha256 = "{A}"\nreason = "x"\nexpires = 2030-01-01\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[override]]\nwhen = "x/**"', "override.0: changes nothing"),
        ('[[override]]\npolicy = "strict"', "override.0.when: is missing"),
        (AVATARS + 'on_error = "block"', "override.0: has a policy and values of its own"),
        ('[[override]]\nwhen = "a=b"\npolicy = "strict"', "override.0.when: 'a=b' is neither"),
        ('[[override]]\nwhen = "x/**"\nthreshold = 1', "override.0.threshold: unknown key"),
        ('[[override]]\nwhen = "x/**"\n[override.categories]\nnudty = { block = 1.0 }',
         "override.0.categories.nudty"),
        ('[[override]]\nwhen = "x/**"\n[override.categories]\nnudity = { block = 0.2 }',
         "override.0.categories.nudity: review (0.3) must not be above block (0.2)"),
        ('[[override]]\nwhen = "x/**"\nbands = { risk_mid_from = 0.8 }', "override.0.bands"),
        ('[[override]]\nwhen = "x/**"\nrating = [{ value = "a", description = "b" }]',
         "override.0.rating: a scale has 2 to 7 levels"),
        (AVATARS + AVATARS, "override.1.when: 'avatars/**' is that of an earlier override"),
        (AVATARS + AVATARS.replace('"avatars/**"', '"b/**"'), "override.1.name: 'avatars' is"),
        (AVATARS + "rules = {}", "override.0.rules.name"),
        (ENTRY.replace(A, "abc"), "ignore.0.sha256: a SHA-256 has 64"),
        (ENTRY.replace("expires = 2030-01-01", ""), "ignore.0.expires: is missing"),
        (ENTRY.replace("2030-01-01", "2030"), "ignore.0.expires: a date is written"),
        (ENTRY.replace('"x"', '""'), "ignore.0.reason"),
        (ENTRY + ENTRY.replace("2030", "2031").replace(A, A.upper()),
         f"ignore: entries for {A} contradict each other"),
        (f'[[block]]\nsha256 = "{A}"\n', "block.0.reason: is missing"),
        (f'[[block]]\nsha256 = "{A}"\nreason = "x"\n[[block]]\nsha256 = "{A}"\nreason = "y"',
         f"block: entries for {A} contradict each other"),
        ("".join(f'[[block]]\nsha256 = "{n:064x}"\nreason = "x"\n' for n in range(MOST_LISTED + 1)),
         "block: Tuple should have at most 1000 items"),
    ],
)  # fmt: skip
def test_a_wrong_context_is_refused_with_its_key(text: str, told: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(PLAIN + text, "mine.toml")
    message = str(caught.value)
    assert message.startswith("policy mine.toml: ")
    assert told in message
    assert "\n" not in message


def test_what_loading_fills_in_cannot_be_written(write: Write) -> None:
    digest = f'{{ sha256 = "{A}", entries = 1 }}'
    with pytest.raises(PolicyError, match="list_files: unknown key"):
        parse_policy(f"{PLAIN}\n[list_files]\nblock_file = {digest}", "mine.toml")
    rules = PLAIN.replace("[on_warning]", "[override.rules.on_warning]")
    rules = rules.replace("[categories]", "[override.rules.categories]")
    text = f"{PLAIN}\n{AVATARS}\n[override.rules]\n{rules}"
    with pytest.raises(PolicyError, match=r"override.0.rules: unknown key"):
        parse_policy(text, "mine.toml")


def test_the_childrens_scale() -> None:
    children: LoadedPolicy = load_policy("children")
    levels = [level.value for level in children.policy.rating]
    assert levels == ["safe", "careful", "unsuitable", "harmful"]
    assert children.policy.categories == STRICT.categories
    for some, level in (
        (scores(0.1), "safe"),
        (scores(violence=0.2), "careful"),
        (scores(suggestive=0.7), "unsuitable"),
        (scores(nudity=0.2), "unsuitable"),
        (scores(drug_use=0.7), "harmful"),
    ):
        assert views(children.policy, some).rating == level


def test_the_documented_examples_are_policies() -> None:
    page = (Path(__file__).parents[2] / "docs" / "policies.md").read_text(encoding="utf-8")
    examples = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert len(examples) >= 5
    for text in examples:
        whole = re.sub(r'[0-9a-f]{8}\.\.\."', f'{A}"', text)
        top, more = re.split(r"^(?=\[)", whole, maxsplit=1, flags=re.MULTILINE)
        plain = PLAIN
        if "[on_warning]" in whole:  # the preset has both of the keys that the example shows
            plain = re.sub(r"^partly_seen_from.*?(?=^\[categories\])", "", PLAIN, flags=re.M | re.S)
        parsed = parse_policy(f"{top}\n{plain}\n{more}", "policies.md")
        assert parsed.policy.name == "balanced (edited)"
