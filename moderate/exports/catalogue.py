"""The forms of export by name; nothing is imported before a form is used."""

from __future__ import annotations

from collections.abc import Mapping

REPORTS: Mapping[str, str] = {
    "dsa": "dsa:StatementsOfReasons",
    "junit": "junit:JunitReport",
}
"""What --report writes: the module below `moderate.exports`, and the class, of each form."""

SHAPES: Mapping[str, str] = {}
"""What --shape makes of --out: the answers of hosted services, as their clients read them."""
