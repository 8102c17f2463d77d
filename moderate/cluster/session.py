"""Ray itself: started or found, asked what it has, and told how much of it a run takes."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from moderate.cluster.processes import children, ended_at_last
from moderate.cores import available_cores
from moderate.errors import DeviceError, RunError
from moderate.scratch import scratch_folder
from moderate.text import one_line, printable

log = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 1 << 30
"""Of a Ray that is started here: some batches of pixels and fragments are in it at a time."""

_LONGEST_FOLDER = 40
"""Bytes. Names of sockets have 107 at the most, and Ray adds some 65 of its own."""

AUTO = "auto"
"""The address of the cluster that this machine is part of, or that RAY_ADDRESS names."""

_CONNECT_SECONDS = 10.0  # to a head

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to Ray's makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # 15 by default: workers would starve beside anything else
}


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of a cluster: its id, and how many CPUs and GPUs Ray may use of it."""

    id: str
    cpus: float
    gpus: int


@dataclass(frozen=True, slots=True)
class Share:
    """Actors that a run has on one machine.

    models of them hold a model, each with model_cpus and, where is_gpu, one GPU; workers of them
    decode, each with worker_cpus and with so many decoder processes.
    """

    node: Node
    models: int
    model_cpus: float
    is_gpu: bool
    workers: int
    worker_cpus: float
    decoders: int


@contextlib.contextmanager
def ray_session(address: str | None, device: str) -> Iterator[list[Node]]:
    """A connection to Ray, and the machines that there are. Raises RunError and DeviceError.

    Without an address, Ray is started on this machine and ended with the session. A process that
    is connected already stays so.
    """
    os.environ.update(_SETTINGS)
    if address is not None:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")  # of half a minute each
        check_answers(address)
    import ray

    if ray.is_initialized():
        yield _nodes(device)
        return
    with scratch_folder("ray") if address is None else nullcontext() as folder:
        others = children(os.getpid())
        try:
            _connect(address, device, folder)
            yield _nodes(device)
        finally:
            with ended_at_last(children(os.getpid()) - others if address is None else set()):
                ray.shutdown()


def check_answers(address: str) -> None:
    """Refuse a cluster whose head takes no connection, which Ray would try for many minutes.

    address is HOST:PORT; or auto, for which the environment may have one. Raises RunError.
    """
    where = os.environ.get("RAY_ADDRESS", "") if address == AUTO else address
    host, _, port = where.rpartition(":")
    if not (host and port.isdecimal()):
        return  # Ray looks for one on this machine
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"no Ray at {printable(where)}: {one_line(reason)}") from None


def _connect(address: str | None, device: str, folder: Path | None) -> None:
    """Connect, or start Ray with its sockets and logs in a folder, if its name is short enough."""
    import ray

    _keep_ray_silent()
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": None}
    with _own_signal_handlers():
        try:
            if address is None:
                gpus = {"num_gpus": 0} if device == "cpu" else {}
                is_short = folder and len(os.fsencode(folder)) <= _LONGEST_FOLDER
                ray.init(
                    address="local",
                    num_cpus=available_cores(),
                    object_store_memory=_OBJECT_STORE_BYTES,
                    **{**quiet, "include_dashboard": False},
                    _temp_dir=str(folder) if is_short else None,
                    **gpus,
                )
            else:
                ray.init(address=address, **quiet)
        except Exception as error:
            where = "Ray cannot be started" if address is None else f"no Ray at {address}"
            raise RunError(f"{where}: {one_line(str(error), 300)}") from error


def _keep_ray_silent() -> None:
    """Ray prints a paragraph on standard output when a worker dies, of which there is our own line.

    It has no setting for that. Where a version of it has no such function, it prints.
    """
    import ray._private.worker as internals

    if hasattr(internals, "print_to_stdstream"):
        internals.print_to_stdstream = lambda data, *_, **__: log.debug("Ray: %s", data)


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Ray puts a handler of its own for SIGTERM, which would end the run without our line."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _nodes(device: str) -> list[Node]:
    import ray

    nodes = []
    for node in ray.nodes():
        resources = node["Resources"]
        if node["Alive"] and resources.get("CPU"):
            gpus = 0 if device == "cpu" else int(resources.get("GPU", 0))
            nodes.append(Node(node["NodeID"], resources["CPU"], gpus))
    if not nodes:
        raise RunError("no machine of the Ray cluster has a CPU to use")
    if device == "cuda" and not any(node.gpus for node in nodes):
        raise DeviceError("--device cuda: no machine of the Ray cluster has a GPU")
    return sorted(nodes, key=lambda node: node.id)


def shares(nodes: list[Node], decoders: int | None = None) -> list[Share]:
    """How a run divides these machines; decoders is how many processes a worker is to have.

    A model per GPU, or where there are none, a model per machine, which uses all its cores as that
    of a scan on one machine does. Two workers per model, as one that is at the end of a fragment
    waits for its last scores; and of the machines without a GPU among such with GPUs, a worker for
    each 4 CPUs. What is reserved adds up to the machine.
    """
    has_gpus = any(node.gpus for node in nodes)
    found = []
    for node in nodes:
        if node.gpus:
            models, workers = node.gpus, 2 * node.gpus
            model_cpus = min(1.0, node.cpus / (2 * models))
        elif has_gpus:
            models, workers, model_cpus = 0, max(1, int(node.cpus // 4)), 0.0
        else:
            models, workers, model_cpus = 1, 2, node.cpus / 2
        worker_cpus = _rounded((node.cpus - models * model_cpus) / workers)
        each = decoders or max(1, int((node.cpus - models * has_gpus) // workers))
        found.append(
            Share(node, models, _rounded(model_cpus), bool(node.gpus), workers, worker_cpus, each)
        )
    return found


def described(found: list[Share], address: str | None) -> str:
    """What a run runs on, in a line."""
    machines = len(found)
    cpus = sum(share.node.cpus for share in found)
    gpus = sum(share.node.gpus for share in found)
    models = sum(share.models for share in found)
    workers = sum(share.workers for share in found)
    where = "on this machine" if address is None else f"at {address}"
    parts = [
        _count(machines, "machine"),
        _count(int(cpus), "CPU"),
        _count(gpus, "GPU"),
        _count(models, "model"),
        _count(workers, "decoding worker"),
    ]
    return f"Ray {where}: {', '.join(parts)}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _rounded(cpus: float) -> float:
    """Ray takes four decimal places; rounded down, so that the sum still fits."""
    return int(cpus * 1000) / 1000
