"""The circuit breaker per host: when it opens, how it closes, and how much it remembers."""

from __future__ import annotations

from moderate.fetch.breaker import Breaker


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def breaker(clock: Clock, **changes: int) -> Breaker:
    settings: dict[str, int] = {"failures": 3, "patience": 10, "pause": 30} | changes
    return Breaker(
        failures=settings["failures"],
        patience=settings["patience"],
        pause=settings["pause"],
        capacity=settings.get("capacity", 100),
        clock=clock,
    )


def test_it_opens_after_enough_failures_over_enough_time() -> None:
    clock = Clock()
    hosts = breaker(clock)
    for _ in range(50):  # all sent at 100 and failed at 109
        clock.now = 109.0
        hosts.failed("a", 100.0, "silence")
    assert hosts.refusal("a") is None
    clock.now = 110.0
    hosts.failed("a", 109.0, "refused")
    assert hosts.refusal("a") == "51 requests in a row failed, the last one with: refused"
    assert hosts.refusal("b") is None


def test_a_long_time_alone_does_not_open_it() -> None:
    clock = Clock()
    hosts = breaker(clock)
    for began in (100.0, 1000.0):
        clock.now = began + 20
        hosts.failed("a", began, "silence")
    assert hosts.refusal("a") is None


def test_an_answer_starts_the_count_anew() -> None:
    clock = Clock()
    hosts = breaker(clock, patience=0)
    for _ in range(10):
        hosts.failed("a", clock.now, "silence")
        hosts.failed("a", clock.now, "silence")
        hosts.succeeded("a")
    assert hosts.refusal("a") is None


def test_one_request_per_pause_goes_through() -> None:
    clock = Clock()
    hosts = breaker(clock, failures=1, patience=0)
    hosts.failed("a", clock.now, "silence")
    for _ in range(3):
        clock.now += 29
        assert hosts.refusal("a")
        clock.now += 1
        assert hosts.refusal("a") is None
        assert hosts.refusal("a")  # it is under way, and may never end
    clock.now += 10
    hosts.failed("a", clock.now - 10, "silence")
    clock.now += 29
    assert hosts.refusal("a")
    clock.now += 1
    assert hosts.refusal("a") is None
    hosts.succeeded("a")
    assert hosts.refusal("a") is None


def test_it_remembers_a_bounded_number_of_hosts() -> None:
    clock = Clock()
    hosts = breaker(clock, failures=1, patience=0, capacity=100)
    for number in range(10_000):
        hosts.failed(number, clock.now, "silence")
        hosts.failed("busy", clock.now, "silence")
    assert len(hosts._streaks) == 100
    assert hosts.refusal("busy")
    assert hosts.refusal(9_999)
    assert hosts.refusal(0) is None
