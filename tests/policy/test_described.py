"""Rating scales that match by description: what a policy may hold, and which level rows get."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from moderate.errors import PolicyError
from moderate.levels import (
    DescribedLevel,
    Scale,
    difference,
    levels_text,
    most_severe,
    read_levels,
    scale_labels,
)
from moderate.policy.batch import Batch, Subject, encoded
from moderate.policy.described import check_described, check_thresholds
from moderate.policy.judge import Judge
from moderate.policy.load import load_policy, parse_policy
from moderate.policy.model import Policy
from moderate.types import CATEGORIES, ErrorCode, ImageError

LIMITS = "".join(f"{name} = {{ review = 0.3, block = 0.85 }}\n" for name in CATEGORIES)
PLAIN = f'name = "mine"\n[categories]\n{LIMITS}'
SEVEN = ("мирно", "静か", "ok", "x" * 24, "é", "with a/level:b", "🙂")
TWO = ("calm", "wild")


def level_table(value: str, description: str, more: str = 'match = "description"') -> str:
    return f'[[rating]]\nvalue = "{value}"\ndescription = "{description}"\n{more}\n'


def described(values: Sequence[str], more: str = "") -> Policy:
    """A policy of levels of these values; each has another description of 150 characters."""
    levels = [level_table(value, f"{n}".rjust(150, "é")) for n, value in enumerate(values)]
    return parse_policy(PLAIN + "".join(levels) + more, "mine.toml").policy


def names(values: Sequence[str], model: str = "m") -> list[str]:
    return [f"{model}/level:{value}" for value in values]


def batch(
    values: Sequence[str], probabilities: Sequence[Sequence[float]], failed: Sequence[int] = ()
) -> Batch:
    """Rows of these probabilities, with scores of no category; those of `failed` have an error."""
    count = len(probabilities)
    columns = dict(zip(names(values), np.array(probabilities, np.float32).T, strict=True))
    return Batch(
        scores=np.full((len(CATEGORIES), count), np.nan, np.float32),
        unseen=np.zeros(count, np.float32),
        warnings=encoded([None] * count),
        errors=encoded("corrupt_image" if n in failed else None for n in range(count)),
        paths=lambda: [b"./a.png"] * count,
        sha256=lambda: [None] * count,
        carried=lambda name: [None] * count,
        labels=lambda name: columns[name],
    )


@pytest.mark.parametrize("values", [TWO, SEVEN])
def test_the_best_fitting_description_wins_and_the_milder_of_equals(
    values: tuple[str, ...],
) -> None:
    judge = Judge(described(values), labels_there=names(values))
    assert judge.labels == tuple(names(values))
    assert judge.threshold_labels == ()
    last = len(values) - 1
    best = np.full((len(values), len(values)), 0.1 / last)
    np.fill_diagonal(best, 0.9)
    tie = [1 / len(values)] * len(values)
    nothing = [float("nan")] * len(values)
    partly = [0.5, *nothing[1:]]
    rows = [*best.tolist(), tie, nothing, partly, best[last].tolist()]
    decided = judge.decide(batch(values, rows, failed=[len(rows) - 1]))
    assert decided.rating.to_list() == [*values, values[0], None, None, None]
    expected = [0.9] * len(values) + [1 / len(values)] + [np.nan] * 3
    np.testing.assert_allclose(decided.rating_probability, expected, rtol=1e-6)
    views = [row.views for row in decided.rows()]
    assert [view.rating for view in views] == decided.rating.to_list()
    assert views[0].rating_probability == pytest.approx(0.9)
    assert views[-1].rating_probability is None


def test_one_row_is_rated_as_many_are() -> None:
    judge = Judge(described(TWO), labels_there=names(TWO))
    generator = np.random.default_rng(7)
    shares = generator.random((50, 1)).astype(np.float32)
    rows = np.hstack([shares, 1 - shares])
    rows[3] = 0.5
    many = judge.decide(batch(TWO, rows.tolist())).rows()
    for row, together in zip(rows.tolist(), many, strict=True):
        labels = dict(zip(names(TWO), row, strict=True))
        alone = judge.judge(
            Subject(b"./a.png", {}, None), dict.fromkeys(CATEGORIES, 0.1), (), None, labels
        )
        assert alone.views.rating == together.views.rating == TWO[row[1] > row[0]]
        assert alone.views.rating_probability == together.views.rating_probability == max(row)
    error = ImageError(ErrorCode.CORRUPT_IMAGE, "cut")
    failed = judge.judge(Subject(b"./a", {}, None), dict.fromkeys(CATEGORIES), (), error, {})
    assert failed.views.rating is None


def test_levels_decide_nothing() -> None:
    wild = {names(TWO)[0]: 0.0, names(TWO)[1]: 1.0}
    subject, scores = Subject(b"./a.png", {}, None), dict.fromkeys(CATEGORIES, 0.1)
    rated = Judge(described(TWO), labels_there=names(TWO)).judge(subject, scores, (), None, wild)
    plain = Judge(parse_policy(PLAIN, "mine.toml").policy).judge(subject, scores, (), None)
    assert (rated.decision, rated.reasons) == (plain.decision, plain.reasons)
    assert (rated.views.rating, plain.views.rating) == ("wild", None)


def test_an_override_may_have_a_scale_of_its_own() -> None:
    override = """
[[override]]
when = "kids/**"
[[override.rating]]
value = "fit"
description = "For all."
[[override.rating]]
value = "unfit"
description = "Not for all."
any = { nudity = 0.1 }
"""
    judge = Judge(described(TWO, override), labels_there=names(TWO))
    wild = {names(TWO)[0]: 0.1, names(TWO)[1]: 0.9}
    scores = dict.fromkeys(CATEGORIES, 0.2)
    found = [
        judge.judge(Subject(path, {}, None), scores, (), None, wild).views
        for path in (b"./a.png", b"./kids/a.png")
    ]
    assert [view.rating for view in found] == ["wild", "unfit"]
    assert found[0].rating_probability == pytest.approx(0.9)
    assert found[1].rating_probability is None
    assert len(judge.described_scales) == 1


def test_without_the_labels_there_is_no_rating() -> None:
    judge = Judge(described(TWO))
    assert judge.labels == ()
    scores = dict.fromkeys(CATEGORIES, 0.9)
    views = judge.judge(Subject(b"./a", {}, None), scores, (), None, {}).views
    assert (views.rating, views.rating_probability) == (None, None)


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        (level_table("a", "one"), "a scale has 2 to 7 levels"),
        (level_table("a", "one") + level_table("b", "two", ""), "level 'b' has no match"),
        (
            level_table("a", "one")
            + level_table("b", "two", 'match = "description"\nany = { nudity = 0.5 }'),
            "level 'b' matches by its description and has no condition",
        ),
        (level_table("a", "one") + level_table("a", "two"), "two levels have the value 'a'"),
        (level_table("a", "one") + level_table("b", "one"), "'a' and 'b' have the same desc"),
        (level_table("a", "one") + level_table("b", "One!"), "'a' and 'b' have the same desc"),
        (level_table("a", "one") + level_table("b", " two"), "begins or ends with a blank"),
        (level_table("a", "!!!") + level_table("b", "two"), "'!!!' has no word"),
        (level_table("a", "one") + level_table("b; c", "two"), "separates reasons"),
        (level_table("a", "one") + level_table("x" * 25, "two"), "rating.1.value"),
        (level_table("a", "one") + level_table("b", "x" * 151), "rating.1.description"),
        (level_table("a", "one") + level_table("b", ""), "rating.1.description"),
        (level_table("a", "one") + level_table("b", "two", 'match = "words"'), "rating.1.match"),
        ("".join(level_table(str(n), f"d{n}") for n in range(8)), "rating"),
    ],
)
def test_what_is_no_scale_by_description(levels: str, said: str) -> None:
    with pytest.raises(PolicyError, match=r"policy mine\.toml: rating") as raised:
        parse_policy(PLAIN + levels, "mine.toml")
    assert said in str(raised.value)


def test_audit_facts_of_other_policies_stay_what_they_were() -> None:
    text = load_policy("children").policy.model_dump_json()
    assert '"match"' not in text
    assert '{"value":"safe","description":' in text
    policy = described(SEVEN)
    assert Policy.model_validate_json(policy.model_dump_json()) == policy


def test_labels_of_levels_are_those_of_one_model_that_has_all() -> None:
    scale = described(SEVEN).described_levels
    there = names(SEVEN)
    assert scale_labels(scale, ["m/other", *reversed(there)]) == tuple(there)
    assert scale_labels(scale, there[1:]) == ()
    assert scale_labels(scale, [*there, *names(SEVEN, "n")]) == ()
    assert scale_labels(scale, [*there, *names(SEVEN[:3], "n")]) == tuple(there)
    assert scale_labels((), there) == ()


def made(*pairs: tuple[str, str]) -> Scale:
    return tuple(DescribedLevel(value=value, description=text) for value, text in pairs)


def test_other_levels_are_told_apart() -> None:
    here = made(("a", "one"), ("b", "two"))
    assert difference(here, made(("a", "one"), ("b", "two"))) is None
    assert difference(here, made(("b", "two"), ("a", "one"))) == "the levels in another order b, a"
    assert difference(here, made(("a", "one"), ("c", "two"))) == "the levels a, c"
    assert (
        difference(here, made(("a", "one"), ("b", "2"))) == "another description of level 'b': '2'"
    )
    assert read_levels(levels_text(here)) == here
    assert levels_text(()) == ""
    for text in (None, "", "[]", '[["a", "one"]]', "{", "7", '[["a", "b", "c"]]', '[["a", 7], []]'):
        assert read_levels(text) is None


def test_weights_for_other_levels_are_refused() -> None:
    judge = Judge(described(TWO))
    scale = judge.policy.described_levels
    check_described(judge, scale, there="the weights w were built for", advice="build them")
    for there, said in (((), "no rating levels"), (scale[::-1], "the levels in another order")):
        with pytest.raises(PolicyError) as raised:
            check_described(judge, there, there="the weights w were built for", advice="build them")
        assert (
            f"policy mine: rating: its levels match by description; the weights w were built "
            f"for {said}" in str(raised.value)
        )
    thresholds = '[labels."m/level:wild"]\nreview = 0.1\nblock = 0.2\n'
    judge = Judge(parse_policy(PLAIN + thresholds, "mine.toml").policy)
    check_thresholds(judge, ())
    with pytest.raises(PolicyError, match="which only rates"):
        check_thresholds(judge, ["m/level:wild"])


def test_the_most_severe_part_decides() -> None:
    assert most_severe([[0.9, 0.1], [0.3, 0.7], [0.1, 0.9], [0.1, 0.9]]) == 2
    assert most_severe([[0.5, 0.5], [0.9, 0.1]]) == 1  # of equal levels, the surest
    assert most_severe([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]]) == 0
