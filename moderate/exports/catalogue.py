"""The forms of export by name; nothing is imported before a form is used."""

from __future__ import annotations

from collections.abc import Mapping

REPORTS: Mapping[str, str] = {
    "sarif": "sarif:SarifReport",
    "dsa": "dsa:StatementsOfReasons",
    "junit": "junit:JunitReport",
    "github": "github:GithubAnnotations",
    "gitlab": "gitlab:GitlabReport",
    "label-studio": "label_studio:LabelStudioTasks",
    "fiftyone": "fiftyone:FiftyOneDataset",
    "coop": "coop:CoopItems",
}
"""What --report writes: the module below `moderate.exports`, and the class, of each form."""

SHAPES: Mapping[str, str] = {
    "scores": "shapes.scores:ScoresShape",
    "flags": "shapes.flags:FlagsShape",
    "booleans": "shapes.booleans:BooleansShape",
    "ratings": "shapes.ratings:RatingsShape",
    "risk": "shapes.risk:RiskShape",
    "rekognition": "shapes.rekognition:RekognitionShape",
    "azure": "shapes.azure:AzureShape",
    "safesearch": "shapes.safesearch:SafeSearchShape",
}
"""What --shape makes of --out: the answers of hosted services, as their clients read them."""
