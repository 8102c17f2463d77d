"""How a run divides the machines of a cluster."""

from __future__ import annotations

import socket

import pytest

from moderate.cluster.session import AUTO, Node, check_answers, described, shares
from moderate.errors import RunError


@pytest.mark.parametrize("cpus", [1.0, 2.0, 7.0, 64.0])
def test_a_machine_without_gpus_has_one_model_and_two_workers_and_no_more_than_it_is(
    cpus: float,
) -> None:
    (share,) = shares([Node("a", cpus, 0)])
    assert (share.models, share.workers, share.is_gpu) == (1, 2, False)
    assert share.model_cpus + 2 * share.worker_cpus <= cpus
    assert 1 <= share.decoders <= max(1, cpus / 2)


def test_a_model_per_gpu_and_workers_on_all_machines() -> None:
    found = shares([Node("a", 32.0, 4), Node("b", 16.0, 0)])
    assert [(share.models, share.workers, share.decoders) for share in found] == [
        (4, 8, 3),
        (0, 4, 4),
    ]
    for share in found:
        used = share.models * share.model_cpus + share.workers * share.worker_cpus
        assert used <= share.node.cpus
    assert described(found, "auto") == (
        "Ray at auto: 2 machines, 48 CPUs, 4 GPUs, 4 models, 12 decoding workers"
    )


def test_the_decoders_of_a_worker_can_be_named() -> None:
    assert shares([Node("a", 8.0, 0)], 5)[0].decoders == 5


def test_a_head_that_takes_no_connection_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        check_answers(address)
    with pytest.raises(RunError, match=f"^no Ray at {address}: Connection refused$"):
        check_answers(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(RunError, match=f"^no Ray at {address}: Connection refused$"):
        check_answers(AUTO)
    monkeypatch.delenv("RAY_ADDRESS")
    check_answers(AUTO)
