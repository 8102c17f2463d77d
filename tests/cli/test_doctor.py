"""What `moderate doctor` says of the sandbox."""

from __future__ import annotations

import re

from moderate.decode.probe import Probed
from moderate.decode.sandbox import Protection, landlock_abi
from moderate.run.doctor import examine, sandbox_finding


def test_the_sandbox_is_tried_out() -> None:
    found = next(finding for finding in examine() if finding.label == "sandbox")
    assert not found.problem, "this kernel lacks protections"
    for name in Protection:
        assert name in found.value
    assert f"landlock (ABI {landlock_abi()})" in found.value


def test_the_engines_are_named_whether_installed_or_not() -> None:
    packages = next(finding for finding in examine() if finding.label == "packages").value
    for name in ("torch", "OpenVINO", "PyAV"):
        assert re.search(rf"\b{name} (\d|not installed)", packages)


def test_what_is_missing_is_a_problem_in_words() -> None:
    active = tuple(name for name in Protection if name is not Protection.SECCOMP)
    found = sandbox_finding(Probed(active, ("fork", "connect by UDP")))
    assert found.problem
    assert "without seccomp it can fork" in found.value
    assert "in a trial it could fork, connect by UDP" in found.value
    assert "\n" not in found.value


def test_a_breach_is_a_problem_though_all_is_active() -> None:
    assert sandbox_finding(Probed(tuple(Protection), ("fork",))).problem
    assert not sandbox_finding(Probed(tuple(Protection), ())).problem
