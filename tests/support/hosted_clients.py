"""What code that was written for hosted services does with their answers, as people write it.

Each client gives a verdict per image: True where it lets the image pass. None of them knows that
the answers are not the service's own; none looks at more than such code looks at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from botocore.model import OperationModel  # comes with moto
from botocore.parsers import create_parser
from botocore.session import Session

Verdicts = list[bool]


# scores


def scores_by_number(document: Mapping[str, Any]) -> Verdicts:
    assert UUID(document["moderation_id"])
    assert document["status"] in {"queued", "completed", "failed"}
    datetime.strptime(document["completed_at"], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
    assert document["total_images"] == len(document["results"]) >= document["credits_used"]
    verdicts = []
    for result in document["results"]:
        if result["nsfw_score"] > 0.5:
            verdicts.append(False)
        elif result["nsfw_score"] < 0.1:
            verdicts.append(True)
        else:
            verdicts.append(False)  # a person looks at it
    return verdicts


def scores_by_safe_score(document: Mapping[str, Any]) -> Verdicts:
    return [result["safe_score"] >= 0.5 for result in document["results"]]


def scores_by_label(document: Mapping[str, Any]) -> Verdicts:
    return [r["label"] == "safe" and r["confidence"] > 0.5 for r in document["results"]]


# flags


def flags_one_by_one(document: Iterable[Mapping[str, Any]]) -> Verdicts:
    verdicts = []
    for answer in document:
        safe = True
        for flag in answer["detect-moderation"]["flags"]:
            if flag["confidence"] > 0.5:
                safe = False
        verdicts.append(safe)
    return verdicts


def flags_of_nudity_alone(document: Iterable[Mapping[str, Any]]) -> Verdicts:
    return [
        not any(
            flag["name"] == "Nudity" and flag["confidence"] >= 0.8
            for flag in answer["detect-moderation"]["flags"]
        )
        for answer in document
    ]


# booleans


def booleans_by_place(document: Mapping[str, Any]) -> Verdicts:
    assert document["inputCount"] == len(document["has_nsfw_concepts"])
    assert document["is_nsfw"] == any(document["has_nsfw_concepts"])
    assert document["cost"] >= 0
    assert not document["truncated"]
    return [not concept for concept in document["has_nsfw_concepts"]]


# ratings


def ratings_by_level(document: Mapping[str, Any]) -> Verdicts:
    return ["error" not in r and r["rating"] == "general" for r in document["results"]]


def ratings_by_what_is_bad(document: Mapping[str, Any]) -> Verdicts:
    verdicts = []
    for result in document["results"]:
        if "error" in result:
            assert f"{result['url']}: {result['error']['code']} {result['error']['message']}"
            verdicts.append(False)
        else:
            verdicts.append(result["rating"] not in {"mature", "explicit"})
    return verdicts


# risk


def risk_of_jobs(document: Iterable[Mapping[str, Any]]) -> Verdicts:
    verdicts = []
    for answer in document:
        assert answer["code"] == 200
        data = answer["data"]
        assert UUID(data["job_id"])
        if data["status"] == "CONVERTING":
            raise AssertionError("asks again for ever")
        verdicts.append(data["status"] == "COMPLETED" and data["res_data"]["check_result"] == "low")
    return verdicts


def risk_by_result(document: Iterable[Mapping[str, Any]]) -> Verdicts:
    return [answer["data"]["res_data"]["check_result"] == "low" for answer in document]


# rekognition


def rekognition_manifest(lines: str) -> dict[str, bool]:
    """Whether an image passes, by its `source-ref`: what is not in the manifest has no verdict.

    The labels are read by the parser that Amazon's own client has for them.
    """
    verdicts = {}
    parser, shape = create_parser("json"), _operation().output_shape
    for line in lines.splitlines():
        entry = json.loads(line)
        body = json.dumps(entry["detect-moderation-labels"]).encode()
        answer = parser.parse({"body": body, "headers": {}, "status_code": 200}, shape)
        answer.pop("ResponseMetadata")
        assert answer == entry["detect-moderation-labels"]  # nothing that the client does not know
        assert answer["ModerationModelVersion"].startswith("7")
        names = {label["Name"] for label in answer["ModerationLabels"]}
        for label in answer["ModerationLabels"]:
            assert 0 <= label["Confidence"] <= 100
            assert (label["TaxonomyLevel"] == 1) == (label["ParentName"] == "")
            assert label["ParentName"] == "" or label["ParentName"] in names
        verdicts[entry["source-ref"]] = not names
    return verdicts


def rekognition_summary(summary: Mapping[str, Any]) -> list[str]:
    """The images that were not handled."""
    counts = summary["statistics"]
    assert summary["version"] == "1.0"
    assert counts["invalid-json-lines"] == len(summary["errors"])
    assert counts["total-json-lines"] == (counts["valid-json-lines"] + counts["invalid-json-lines"])
    return [f"{error['source-ref']}" for error in summary["errors"] if error["code"]]


def _operation() -> OperationModel:
    return Session().get_service_model("rekognition").operation_model("DetectModerationLabels")


# azure


def azure_that_looks_at_errors(document: Iterable[Mapping[str, Any]]) -> Verdicts:
    verdicts = []
    for answer in document:
        if "error" in answer:
            assert answer["error"]["code"]
            assert answer["error"]["message"]
            verdicts.append(False)
            continue
        found = {each["category"]: each["severity"] for each in answer["categoriesAnalysis"]}
        assert set(found) == {"Hate", "SelfHarm", "Sexual", "Violence"}
        verdicts.append(all(found[name] < 4 for name in ("Sexual", "Violence")))
    return verdicts


def azure_that_does_not(document: Iterable[Mapping[str, Any]]) -> Verdicts:
    return [
        not any((each.get("severity") or 0) >= 4 for each in answer["categoriesAnalysis"])
        for answer in document
    ]


# safesearch

_LIKELIHOODS = ["UNKNOWN", "VERY_UNLIKELY", "UNLIKELY", "POSSIBLE", "LIKELY", "VERY_LIKELY"]


def safesearch_that_looks_at_errors(document: Mapping[str, Any]) -> Verdicts:
    verdicts = []
    for response in document["responses"]:
        if response.get("error", {}).get("message"):
            verdicts.append(False)
            continue
        safe = response["safeSearchAnnotation"]
        assert set(safe) == {"adult", "spoof", "medical", "violence", "racy"}
        assert set(safe.values()) <= set(_LIKELIHOODS)
        verdicts.append(all(_LIKELIHOODS.index(safe[name]) < 3 for name in ("adult", "violence")))
    return verdicts


def safesearch_that_does_not(document: Mapping[str, Any]) -> Verdicts:
    return [
        response["safeSearchAnnotation"]["adult"] not in {"LIKELY", "VERY_LIKELY"}
        for response in document["responses"]
    ]


CLIENTS: Mapping[str, tuple[Callable[[Any], Verdicts], ...]] = {
    "scores": (scores_by_number, scores_by_safe_score, scores_by_label),
    "flags": (flags_one_by_one, flags_of_nudity_alone),
    "booleans": (booleans_by_place,),
    "ratings": (ratings_by_level, ratings_by_what_is_bad),
    "risk": (risk_of_jobs, risk_by_result),
    "azure": (azure_that_looks_at_errors, azure_that_does_not),
    "safesearch": (safesearch_that_looks_at_errors, safesearch_that_does_not),
}
"""Of documents. That of rekognition is a summary, without verdicts."""
