"""Own categories in a policy: what is refused, and that rows and columns are decided alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderate.errors import PolicyError
from moderate.own_categories import TAKEN
from moderate.policy.batch import Batch, Subject, UndecidedRow
from moderate.policy.judge import Judge
from moderate.policy.load import parse_policy
from moderate.policy.model import Policy
from moderate.results.final import FINAL_COLUMNS
from moderate.results.schema import COLUMNS
from moderate.run.policy_columns import policy_columns
from moderate.sources.subset import PLACE_COLUMNS
from moderate.types import CATEGORIES, ImageFacts, ImageRef, Warn

BASE: dict[str, Any] = {
    "name": "p",
    "categories": {name.value: {"review": 0.4, "block": 0.8} for name in CATEGORIES},
}
OWN = {"gambling": {"review": 0.5, "block": 0.9}}


def text(own: str, rest: str = "") -> str:
    five = "".join(f"{name} = {{ review = 0.4, block = 0.8 }}\n" for name in CATEGORIES)
    return f'name = "p"\n[categories]\n{five}{own}\n{rest}'


@pytest.mark.parametrize(
    ("toml", "why"),
    [
        (text("own.Gambling = { review = 0.1, block = 0.2 }"), "own.Gambling"),
        (text("own.rating = { review = 0.1, block = 0.2 }"), "the name rating is taken"),
        (text("own.nudity = { review = 0.1, block = 0.2 }"), "is one of the five"),
        (text("own.gambling = { review = 0.3, block = 0.2 }"), "must not be above block"),
        (
            text("own.gambling = { review = 0.3 }"),
            ": categories.own.gambling.block: is missing",
        ),
        (text("", "[own.gambling]\nreview = 0.1\nblock = 0.2"), "write [categories.own.NAME]"),
        (text("", '[bands]\ncategories = ["gambling"]'), "bands.categories.gambling: is none of"),
        (
            text(
                "",
                '[[rating]]\nvalue = "a"\ndescription = "a"\n'
                '[[rating]]\nvalue = "b"\ndescription = "b"\nany = { nudtiy = 0.5 }',
            ),
            "rating.1.any.nudtiy: is none of nudity",
        ),
        (
            text("", '[[override]]\nwhen = "a/**"\n[override.categories.own]\nx = { block = 0.2 }'),
            "override.0.categories.own.x.review: is missing",
        ),
    ],
)
def test_mistakes_are_refused(toml: str, why: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(toml, "p.toml")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_policy_without_own_categories_is_stored_as_ever() -> None:
    plain = Policy.model_validate(BASE)
    assert '"own"' not in plain.model_dump_json()
    policy = Policy.model_validate({**BASE, "categories": {**BASE["categories"], "own": OWN}})
    stored = policy.model_dump_json()
    assert '"own":{"gambling":' in stored
    assert Policy.model_validate_json(stored) == policy


def test_no_name_of_a_column_is_free_for_a_category() -> None:
    columns = {*(column.name for column in COLUMNS), *FINAL_COLUMNS, *PLACE_COLUMNS}
    assert columns <= TAKEN | set(CATEGORIES)


score = (
    st.none()
    | st.sampled_from([0.0, 0.39999998, 0.4, 0.5, 0.8, 0.9, 1.0])
    | st.floats(0, 1, width=32)
)
limits = st.tuples(st.sampled_from([0.3, 0.4, 0.5]), st.sampled_from([0.5, 0.8, 0.9])).map(
    lambda pair: {"review": pair[0], "block": pair[1]}
)
NAMES = ("gambling", "weapons", "idle")


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    own = draw(st.dictionaries(st.sampled_from(NAMES[:2]), limits, max_size=2))
    known = [*CATEGORIES, *own]
    conditions = st.dictionaries(st.sampled_from(known), st.just(0.5), min_size=1, max_size=3)
    overrides = []
    if draw(st.booleans()):
        changed = draw(st.dictionaries(st.sampled_from(NAMES[:2]), limits, min_size=1))
        overrides = [{"when": "deep/**", "categories": {"own": changed}}]
    return Policy.model_validate(
        {
            **BASE,
            "categories": {**BASE["categories"], "own": own},
            "on_unscored": draw(st.sampled_from(["ignore", "review"])),
            "on_warning": draw(st.sampled_from([{}, {"animated": "review"}])),
            "rating": [
                {"value": "a", "description": "a"},
                {"value": "b", "description": "b", "any": draw(conditions)},
                {"value": "c", "description": "c", "all": draw(conditions)},
            ],
            "bands": {"categories": draw(st.lists(st.sampled_from(known), min_size=1))},
            "override": overrides,
        }
    )


rows = st.lists(
    st.tuples(
        st.tuples(*[score] * 5),
        st.tuples(*[score] * 3),
        st.booleans(),
        st.sampled_from([(), (Warn.ANIMATED,)]),
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=60)
@given(policies(), rows)
def test_rows_and_columns_are_decided_alike(policy: Policy, drawn: list[Any]) -> None:
    judge = Judge(policy)
    undecided = [
        UndecidedRow(
            ImageRef((b"deep/" if deep else b"a/") + str(number).encode()),
            ImageFacts(warnings=warnings),
            dict(zip(CATEGORIES, five, strict=True)),
            labels=dict(zip(NAMES, own, strict=True)),
        )
        for number, (five, own, deep, warnings) in enumerate(drawn)
    ]
    decided = judge.decide(Batch.of(undecided))
    columns = {name: array.to_pylist() for name, array in policy_columns(decided).items()}
    assert decided.bands.shape == (5 + len(judge.own), len(undecided))
    for index, (row, judged) in enumerate(zip(undecided, decided.rows(), strict=True)):
        alone = judge.judge(
            Subject(row.ref.display, {}, None), row.scores, row.facts.warnings, None, row.labels
        )
        assert alone == judged
        assert columns["decision"][index] == alone.decision
        assert columns["reasons"][index] == ("; ".join(alone.reasons) or None)
        assert columns["rating"][index] == alone.views.rating
        applied = judge.policy_for(Subject(row.ref.display, {}, None))
        # By the definition: the worst of what each score with a threshold asks for.
        known = {**row.scores, **{n: row.labels[n] for n in applied.own}}
        worst = [
            limits.decision(float(value)).severity
            for name, value in known.items()
            if value is not None and (limits := applied.limits(name))
        ]
        least = max(worst, default=1)
        if applied.on_unscored == "review" and None in known.values():
            least = max(least, 1)
        if row.facts.warnings and applied.on_warning:
            least = max(least, 1)
        assert alone.decision.severity == least
        for name, band in zip(judge.own, alone.bands[5:], strict=True):
            value, own_limits = row.labels[name], applied.limits(name)
            if value is None:
                assert band == "unscored"
            elif own_limits is None:
                assert band == "approve"
            else:
                assert band == own_limits.decision(float(value)).value


def test_an_own_category_alone_is_a_score() -> None:
    policy = Policy.model_validate({**BASE, "categories": {**BASE["categories"], "own": OWN}})
    row = UndecidedRow(
        ImageRef(b"a"), ImageFacts(), dict.fromkeys(CATEGORIES), labels={"gambling": 0.2}
    )
    alone = Judge(policy).decide(Batch.of([row])).rows()[0]
    assert (alone.decision.value, alone.reasons) == ("approve", ("gambling 0.20 < review 0.50",))
    without = Judge(Policy.model_validate(BASE)).decide(Batch.of([row])).rows()[0]
    assert without.decision.value == "review"
    assert np.isnan(Judge(policy).decide(Batch.of([row])).nsfw_score).all()
