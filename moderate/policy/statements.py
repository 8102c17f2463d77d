"""What a policy says for statements of reasons: values of the EU's DSA Transparency Database.

Names and values are those of version 2 of its API, in force since July 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from moderate.own_categories import CategoryName
from moderate.types import Category
from moderate.validation import Table

Visibility = Literal[
    "DECISION_VISIBILITY_CONTENT_REMOVED",
    "DECISION_VISIBILITY_CONTENT_DISABLED",
    "DECISION_VISIBILITY_CONTENT_DEMOTED",
    "DECISION_VISIBILITY_CONTENT_AGE_RESTRICTED",
    "DECISION_VISIBILITY_CONTENT_INTERACTION_RESTRICTED",
    "DECISION_VISIBILITY_CONTENT_LABELLED",
]
Ground = Literal["DECISION_GROUND_ILLEGAL_CONTENT", "DECISION_GROUND_INCOMPATIBLE_CONTENT"]
SourceType = Literal[
    "SOURCE_ARTICLE_16",
    "SOURCE_TRUSTED_FLAGGER",
    "SOURCE_TYPE_OTHER_NOTIFICATION",
    "SOURCE_VOLUNTARY",
]
AutomatedDecision = Literal[
    "AUTOMATED_DECISION_FULLY", "AUTOMATED_DECISION_PARTIALLY", "AUTOMATED_DECISION_NOT_AUTOMATED"
]
StatementCategory = Literal[
    "STATEMENT_CATEGORY_ANIMAL_WELFARE",
    "STATEMENT_CATEGORY_CONSUMER_INFORMATION",
    "STATEMENT_CATEGORY_CYBER_VIOLENCE",
    "STATEMENT_CATEGORY_CYBER_VIOLENCE_AGAINST_WOMEN",
    "STATEMENT_CATEGORY_DATA_PROTECTION_AND_PRIVACY_VIOLATIONS",
    "STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH",
    "STATEMENT_CATEGORY_INTELLECTUAL_PROPERTY_INFRINGEMENTS",
    "STATEMENT_CATEGORY_NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS",
    "STATEMENT_CATEGORY_NOT_SPECIFIED_NOTICE",
    "STATEMENT_CATEGORY_OTHER_VIOLATION_TC",
    "STATEMENT_CATEGORY_PROTECTION_OF_MINORS",
    "STATEMENT_CATEGORY_RISK_FOR_PUBLIC_SECURITY",
    "STATEMENT_CATEGORY_SCAMS_AND_FRAUD",
    "STATEMENT_CATEGORY_SELF_HARM",
    "STATEMENT_CATEGORY_UNSAFE_AND_PROHIBITED_PRODUCTS",
    "STATEMENT_CATEGORY_VIOLENCE",
]
Keyword = Annotated[str, Field(pattern=r"^KEYWORD_[A-Z_]{1,80}$")]
"""One of some eighty, of which new ones come and old ones go with the database's versions."""
Country = Annotated[
    str,
    Field(
        pattern=r"^(AT|BE|BG|CY|CZ|DE|DK|EE|ES|FI|FR|GR|HR|HU|IE|"
        r"IS|IT|LI|LT|LU|LV|MT|NL|NO|PL|PT|RO|SE|SI|SK)$"
    ),
]
"""Of the European Economic Area."""


class StatementOf(Table):
    """What statements call a category: the database's category and keywords."""

    category: StatementCategory
    keywords: Annotated[tuple[Keyword, ...], Field(max_length=10)] = ()


class Statements(Table):
    """The table `[dsa]` of a policy: what only the platform knows, the same in every statement.

    What is empty stays empty in the statements. categories replaces entries of STATEMENT_OF.
    """

    decision_visibility: Annotated[tuple[Visibility, ...], Field(max_length=6)] = ()
    decision_ground: Ground | None = None
    source_type: SourceType | None = None
    automated_decision: AutomatedDecision | None = None
    territorial_scope: Annotated[tuple[Country, ...], Field(max_length=30)] = ()
    categories: dict[CategoryName, StatementOf] = {}

    @model_validator(mode="after")
    def _no_twins(self) -> Self:
        for name in ("decision_visibility", "territorial_scope"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: a value is there twice")
        return self

    def of(self, category: str) -> StatementOf:
        """What statements call this category, one of the five or an own one."""
        return self.categories.get(category) or STATEMENT_OF.get(category) or _OTHER


_TERMS: StatementCategory = "STATEMENT_CATEGORY_OTHER_VIOLATION_TC"
STATEMENT_OF: Mapping[str, StatementOf] = {
    Category.NUDITY: StatementOf(category=_TERMS, keywords=("KEYWORD_NUDITY",)),
    Category.SEXUAL_ACTIVITY: StatementOf(
        category=_TERMS, keywords=("KEYWORD_ADULT_SEXUAL_MATERIAL",)
    ),
    Category.SUGGESTIVE: StatementOf(category=_TERMS),
    Category.VIOLENCE: StatementOf(category="STATEMENT_CATEGORY_VIOLENCE"),
    Category.DRUG_USE: StatementOf(category=_TERMS),
}
"""The nearest that the database has, where a policy says nothing.

Its keywords for adult content are among those of violations of terms and conditions. No keyword
fits what is only suggestive, violence that is shown rather than called for, or drugs that are shown
rather than offered.
"""

_OTHER = StatementOf(category=_TERMS)
"""What an own category is called, where a policy says nothing."""
