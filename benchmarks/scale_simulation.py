"""Many workers, fragments of work, and what goes wrong: slow machines, lost machines, lost answers.

`simulate` follows every attempt at every fragment. Nothing is measured here; the rates of trouble
are assumptions, and what comes out depends on the seed alone.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 64  # images of a prefix whose cost is drawn together


@dataclass(frozen=True)
class Trouble:
    """What goes wrong, and how often."""

    slow_share: float = 0.02  # of machines
    slow_speed: float = 0.1  # of a usual one
    preemptions_per_hour: float = 0.05  # of a machine; all its workers lose what they have
    replacement_seconds: float = 120.0
    failed_attempts: float = 0.001  # that end without a result: a store or a network that is down
    lost_answers: float = 0.0001  # of attempts whose result is written and whose report is lost


@dataclass(frozen=True)
class Plan:
    """How the work is cut up and handed out."""

    fragment: int  # images, a multiple of BLOCK
    workers: int = 256
    machine: int = 16  # workers
    fixed_seconds: float = 0.3  # per attempt: start of a task, two writes, a look at what is there
    by_prefix: bool = False  # images of a kind stay together; else they are mixed by a hash
    run: int = 16_384  # images of a kind that are together
    spread: float = 1.0  # standard deviation of the logarithm of a run's cost
    second_attempts: bool = False  # idle workers try again what takes too long
    patience: float = 1.5  # times the median of an attempt; then it takes too long


@dataclass(frozen=True)
class Outcome:
    """Times are in seconds, or shares of what the work itself takes."""

    fragments: int
    ideal_seconds: float
    seconds: float
    wasted: float  # attempts that were lost, overtaken or repeated
    fixed: float  # the fixed part of attempts that counted
    written_twice: int  # fragments
    last_percent: float  # share of the time in which the last hundredth of the fragments ended

    @property
    def stretch(self) -> float:
        """The time that it took, as a multiple of the ideal one."""
        return self.seconds / self.ideal_seconds


def fragment_seconds(
    images: int, seconds_per_image: float, plan: Plan, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Core seconds of each fragment on a usual machine; their sum does not depend on the plan."""
    blocks = images // BLOCK
    kinds = rng.lognormal(0.0, plan.spread, -(-images // plan.run))
    costs = np.repeat(kinds, plan.run // BLOCK)[:blocks] * rng.gamma(16.0, 1 / 16.0, blocks)
    costs *= images * seconds_per_image / costs.sum()
    starts = np.arange(0, blocks, plan.fragment // BLOCK)
    if plan.by_prefix:
        return np.add.reduceat(costs, starts)
    # A hash mixes single images, so a fragment is a sum of independent ones: nearly normal.
    mean, deviation = seconds_per_image, float(costs.std()) / BLOCK
    size = plan.fragment
    mixed = rng.normal(size * mean, np.sqrt(size) * deviation, len(starts)).clip(size * mean / 4)
    return mixed * (images * seconds_per_image / mixed.sum())


def simulate(
    images: int, seconds_per_image: float, plan: Plan, trouble: Trouble, seed: int
) -> Outcome:
    """Work through all images once."""
    rng = np.random.default_rng(seed)
    work = fragment_seconds(images, seconds_per_image, plan, rng)
    # The same machines for every plan, so that plans can be compared.
    machines = _Machines(plan, trouble, np.random.default_rng([seed, 1]))
    count = len(work)
    typical = float(np.median(work)) + plan.fixed_seconds
    failures = rng.random(count) < trouble.failed_attempts
    lost = rng.random(count) < trouble.lost_answers
    done = np.full(count, np.inf)
    idle = [(0.0, worker) for worker in range(plan.workers)]
    again: list[tuple[float, int]] = []  # when it is known to be lost, and the fragment
    running: dict[int, tuple[float, float, int]] = {}  # by worker: begin, end, fragment
    copied: set[int] = set()
    following, spent, twice = 0, 0.0, 0

    def attempt(worker: int, now: float, fragment: int) -> None:
        nonlocal spent, twice
        seconds = work[fragment] / machines.speed(worker, now) + plan.fixed_seconds
        end, free = machines.run(worker, now, seconds)
        spent += end - now
        running[worker] = (now, end, fragment)
        heapq.heappush(idle, (free, worker))
        if end < now + seconds:  # the machine was taken away
            heapq.heappush(again, (end, fragment))
        elif failures[fragment]:
            failures[fragment] = False  # the next attempt gets through
            heapq.heappush(again, (end, fragment))
        elif lost[fragment]:
            lost[fragment] = False
            twice += 1
            heapq.heappush(again, (end, fragment))
        else:
            twice += int(np.isfinite(done[fragment]))
            done[fragment] = min(done[fragment], end)

    while idle:
        now, worker = heapq.heappop(idle)
        running.pop(worker, None)
        while again and done[again[0][1]] <= max(now, again[0][0]):
            heapq.heappop(again)
        if again and again[0][0] <= now:
            attempt(worker, now, heapq.heappop(again)[1])
        elif following < count:
            attempt(worker, now, following)
            following += 1
        elif plan.second_attempts and (
            late := [
                (begin, fragment)
                for begin, end, fragment in running.values()
                if end > now and fragment not in copied and now - begin > plan.patience * typical
            ]
        ):
            fragment = min(late)[1]
            copied.add(fragment)
            attempt(worker, now, fragment)
        elif again:
            heapq.heappush(idle, (again[0][0], worker))
        elif plan.second_attempts and any(
            end > now and fragment not in copied for _, end, fragment in running.values()
        ):
            heapq.heappush(idle, (now + typical / 4, worker))
    finish = float(done.max())
    useful = float(work.sum()) + count * plan.fixed_seconds
    ends = np.sort(done)
    tail = finish - ends[int(0.99 * count) - 1]
    return Outcome(
        fragments=count,
        ideal_seconds=float(work.sum()) / plan.workers,
        seconds=finish,
        wasted=max(0.0, float(spent - useful)) / float(work.sum()),
        fixed=count * plan.fixed_seconds / float(work.sum()),
        written_twice=twice,
        last_percent=tail / finish,
    )


class _Machines:
    """Speeds of machines, and when they are taken away."""

    def __init__(self, plan: Plan, trouble: Trouble, rng: np.random.Generator) -> None:
        self._plan, self._trouble, self._rng = plan, trouble, rng
        count = -(-plan.workers // plan.machine)
        # As many slow ones at the start as their share says; replacements are drawn.
        slow = round(trouble.slow_share * count)
        self._speeds = [trouble.slow_speed] * slow + [1.0] * (count - slow)
        self._ends = [self._life() for _ in range(count)]

    def _new_speed(self) -> float:
        return self._trouble.slow_speed if self._rng.random() < self._trouble.slow_share else 1.0

    def _life(self) -> float:
        rate = self._trouble.preemptions_per_hour / 3600
        return float(self._rng.exponential(1 / rate)) if rate else np.inf

    def speed(self, worker: int, now: float) -> float:
        """Of the worker's machine, which is another one once the first has been taken away."""
        machine = worker // self._plan.machine
        if now > self._ends[machine]:
            self._ends[machine] = now + self._life()
            self._speeds[machine] = self._new_speed()
        return self._speeds[machine]

    def run(self, worker: int, now: float, seconds: float) -> tuple[float, float]:
        """When an attempt ends, and when its worker is free again."""
        taken = self._ends[worker // self._plan.machine]
        if now + seconds <= taken:
            return now + seconds, now + seconds
        return taken, taken + self._trouble.replacement_seconds
