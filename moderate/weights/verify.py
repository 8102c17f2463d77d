"""Proof that what runs is what was installed: digests, and known answers on the device in use."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moderate.classify.bundle import Bundle, load_bundle
from moderate.classify.device import Placement, place
from moderate.classify.selftest import SelfTestResult, check
from moderate.errors import WeightsError


@dataclass(frozen=True, slots=True)
class Verified:
    """A bundle whose files match; selftest is None where the bundle records no known answers."""

    bundle: Bundle
    placement: Placement
    selftest: SelfTestResult | None

    @property
    def files(self) -> int:
        """How many files were compared with their digests."""
        return sum(len(model.card.sha256) for model in self.bundle.models)

    def selftest_line(self) -> str:
        """The outcome of the self-test in a line."""
        placement = self.placement
        name = placement.shown if placement.others else placement.name
        where = f"{name}, {placement.precision}, {placement.backend}"
        if self.selftest is None:
            return f"self-test: the bundle records none ({where})"
        return (
            f"self-test: largest difference {self.selftest.difference:.1e}, "
            f"at most {self.selftest.tolerance:.0e} allowed ({where})"
        )


def verify_bundle(
    name: str, device: str = "auto", precision: str = "auto", backend: str = "auto"
) -> Verified:
    """Check digests and the self-test of a bundle on a device, or on each of several in turn.

    Raises WeightsError for a changed file and for a self-test out of tolerance, DeviceError for a
    device that is not there.
    """
    bundle = load_bundle(name)
    placement = place(device, precision, backend, bundle.kinds)
    from moderate.classify.classifier import Classifier

    recorded = bundle.card.selftest
    results: list[SelfTestResult] = []
    for one in placement.replicas:
        with Classifier(bundle, one, labels=bundle.card.own_categories) as classifier:
            used = classifier.placement
            result = check(bundle, classifier, used, recorded) if recorded else None
        if result is None:
            continue
        results.append(result)
        if not result.passed:
            name = used.shown if placement.others else used.name
            failed = Verified(bundle, replace(used, name=name), result)
            raise WeightsError(
                f"{bundle.name}: {failed.selftest_line()}: the driver, the precision or the files "
                "are not what they were at install"
            )
    worst = max(results, key=lambda result: result.difference, default=None)
    return Verified(bundle, replace(placement, backend=used.backend), worst)
