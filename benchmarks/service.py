"""The service example under load: latencies, memory of all workers, and generations that pass by.

``examples/service`` runs with several workers on one index; clients in this process ask titles
over HTTP, each waiting for its answer. Then a writer in another process commits, over and over, while
clients go on: every commit replaces a few beacons, rows whose score tells the commit, so that an answer
made of two generations would show.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

import tiered_index as ti
from benchmarks.environment import facts
from benchmarks.tiers import build_tiered

APP = Path(__file__).parent.parent / "examples" / "service" / "serve.py"
PACKAGE = Path(ti.__file__).parent.parent
"""The service is to run what runs here, whatever is installed."""

BEACONS = 8
BEACON_IDS = 10**12
K = 10


def add_to(commands: Any) -> None:
    """Add the command to a parser's."""
    command = commands.add_parser("service", description=__doc__)
    command.add_argument("data", type=Path, help="folder with vectors.npy, queries.npy and truth.npy")
    command.add_argument("work", type=Path, help="folder for the index, kept from run to run")
    command.add_argument("--workers", type=int, default=4)
    command.add_argument("--clients", type=int, default=8)
    command.add_argument("--seconds", type=float, default=20.0, help="of load, without and with a writer")
    command.add_argument("--generations", type=int, default=100, help="commits while clients ask")
    command.add_argument("--output", type=Path, help="JSON")
    command.set_defaults(act=_run)


def _run(arguments: argparse.Namespace) -> None:
    figures = run(
        arguments.data,
        arguments.work,
        arguments.workers,
        arguments.clients,
        arguments.seconds,
        arguments.generations,
    )
    show(figures)
    if arguments.output:
        arguments.output.write_text(json.dumps(figures) + "\n")


def run(
    data: Path, work: Path, workers: int, clients: int, seconds: float, generations: int
) -> dict[str, Any]:
    """Build the index if it is missing, measure, and return the figures."""
    queries = np.load(data / "queries.npy")
    work.mkdir(parents=True, exist_ok=True)
    build_tiered(data, work)
    path = work / "tiered.tidx"
    with ti.open(path) as index:
        index.calibrate(queries[::2], (K,), seconds=20)
        rows, dim = len(index), index.config.dim
    asked = [json.dumps(body(query, tag="titles", min_recall=0.95)) for query in queries[1::2]]
    found: dict[str, Any] = {"facts": facts(), "data": data.name, "rows": rows, "workers": workers}
    with serve(path, 1) as service:
        service.load(asked, 1, seconds / 4)
        found["memory_one_worker"] = service.memory()
    with serve(path, workers) as service:
        service.load(asked, clients, seconds / 4)  # every worker's pages are touched
        found["one_client"] = summary(service.load(asked, 1, seconds / 2))
        found["load"] = summary(service.load(asked, clients, seconds))
        found["memory"] = service.memory()
        found["changing"] = _changing(service, path, asked, clients, generations, dim)
        found["memory_after"] = service.memory()
        found["watched"] = service.watched()
    found["load_1min_after"] = round(os.getloadavg()[0], 2)
    return found


def _changing(
    service: Service, path: Path, asked: Sequence[str], clients: int, generations: int, dim: int
) -> dict[str, Any]:
    """Ask while a writer commits; every fifth question is about the beacons."""
    among = {"id": {"$gte": BEACON_IDS}}
    beacon = json.dumps(body(beacon_vectors(0, dim)[1], k=BEACONS, where=among))
    mixed = [beacon if i % 5 == 0 else asked[i % len(asked)] for i in range(5 * len(asked))]
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    writer = context.Process(target=_write, args=(path, generations, dim, ready, go))
    writer.start()
    ready.wait()
    go.set()
    began = time.perf_counter()
    answers = service.load(mixed, clients, until=lambda: not writer.is_alive())
    took = time.perf_counter() - began
    writer.join()
    time.sleep(2.0)
    answers += service.load([beacon], clients, 1.0)
    told = [a for a in answers if a.status == 200 and a.request == beacon and a.body["ids"]]
    torn = sum(not _of_one_commit(a.body["scores"]) for a in told)
    newest = max(a.body["generation"] for a in answers if a.status == 200)
    with ti.open(path, mode="r") as index:
        reached = index.stats().generation
    return {
        **summary(answers),
        "commits": generations,
        "seconds": took,
        "writer_failed": writer.exitcode != 0,
        "generations_seen": len({a.body["generation"] for a in answers if a.status == 200}),
        "newest_seen": newest,
        "newest": reached,
        "beacon_answers": len(told),
        "torn_answers": torn,
    }


def _write(path: Path, generations: int, dim: int, ready: Any, go: Any) -> None:
    """Replace the beacons so many times, a commit each."""
    with ti.open(path) as index:
        ids = np.arange(BEACON_IDS, BEACON_IDS + BEACONS)
        index.upsert(ids, beacon_vectors(0, dim)[0])
        ready.set()
        go.wait()
        for commit in range(1, generations + 1):
            index.upsert(ids, beacon_vectors(commit, dim)[0])
            time.sleep(0.05)


def beacon_vectors(commit: int, dim: int) -> tuple[Any, Any]:
    """Return rows whose cosine with a query tells the commit, shape (BEACONS, dim), and that query."""
    random = np.random.default_rng(7)
    basis = np.linalg.qr(random.normal(size=(dim, BEACONS + 1)))[0].T
    angle = 0.1 + 0.003 * (commit % 100)
    rows = np.cos(angle) * basis[0] + np.sin(angle) * basis[1:]
    return rows.astype(np.float32), basis[0].astype(np.float32)


def _of_one_commit(scores: list[float]) -> bool:
    return len(scores) == BEACONS and scores[-1] > 0.8 and max(scores) - min(scores) < 1e-5


class Answer:
    """A request, and what came of it; status 0 where nothing did."""

    def __init__(self, request: str, status: int, body: Any, ms: float) -> None:
        self.request, self.status, self.body, self.ms = request, status, body, ms


class Service:
    """A running service.

    Parameters
    ----------
    process : subprocess.Popen
        uvicorn's first process.
    port : int
        Where it listens.
    path : Path
        The index.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, path: Path) -> None:
        self._process = process
        self._path = path
        self.port = port

    def get(self, path: str, method: str = "GET", text: str | None = None) -> tuple[int, str]:
        """Ask once, over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def workers(self) -> list[int]:
        """Return the processes that answer."""
        children = _children(self._process.pid)
        serving = [pid for pid in children if "resource_tracker" not in _command(pid)]
        return serving or [self._process.pid]

    def reload(self) -> None:
        """Tell every worker to look for a newer generation now."""
        for pid in self.workers():
            os.kill(pid, signal.SIGUSR1)

    def load(
        self, requests: Sequence[str], clients: int, seconds: float = 3_600.0, until: Any = lambda: False
    ) -> list[Answer]:
        """Ask from several clients at once, each over a connection of its own that it keeps a while."""
        answers: list[Answer] = []
        end = time.perf_counter() + seconds
        threads = [
            threading.Thread(target=self._client, args=(requests, i, clients, end, until, answers))
            for i in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def _client(
        self, requests: Sequence[str], first: int, step: int, end: float, until: Any, answers: list[Answer]
    ) -> None:
        at = first
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while time.perf_counter() < end and not until():
            request = requests[at % len(requests)]
            if at // step % 200 == 199:  # another worker may take the next ones
                connection.close()
            at += step
            began = time.perf_counter()
            try:
                connection.request("POST", "/search", request, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                status, text = answer.status, answer.read()
            except (OSError, http.client.HTTPException) as error:
                status, text = 0, json.dumps(repr(error)).encode()
                connection.close()
            ms = (time.perf_counter() - began) * 1e3
            answers.append(Answer(request, status, json.loads(text), ms))
        connection.close()

    def memory(self) -> dict[str, Any]:
        """Return proportional memory in MB: of all processes, and of each; shared pages count in parts."""
        pids = [self._process.pid, *_children(self._process.pid)]
        each = [_pss(pid) for pid in pids]
        return {
            "processes": len(pids),
            **{name: sum(one[name] for one in each) for name in ("pss_mb", "anonymous_mb", "mapped_mb")},
            "each": each,
        }

    def watched(self) -> dict[str, Any]:
        """Return what ``tiered-index info --watch --json`` says."""
        command = [sys.executable, "-m", "tiered_index", "info", "--watch", "--json", str(self._path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        groups = [group for group in json.loads(done.stdout)["groups"] if group["by"] != "plan"]
        return {"groups": groups}


@contextmanager
def serve(path: Path, workers: int, **environment: str) -> Iterator[Service]:
    """Run the example on a free port, until the end of the block."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    settings = {
        **os.environ,
        "SERVICE_INDEX": str(path),
        "SERVICE_REFRESH_SECONDS": "0.2",
        "PYTHONPATH": os.pathsep.join([str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]),
        **environment,
    }
    command = [sys.executable, str(APP), "--port", str(port), "--workers", str(workers)]
    process = subprocess.Popen([*command, "--log-level", "warning"], env=settings, start_new_session=True)
    service = Service(process, port, path)
    try:
        _wait(service, workers)
        yield service
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(service: Service, workers: int) -> None:
    """Wait until all workers answer."""
    end = time.perf_counter() + 120
    seen: set[int] = set()
    while len(seen) < workers:
        if time.perf_counter() > end:
            raise RuntimeError(f"{len(seen)} of {workers} workers are ready after 120 s")
        with suppress(OSError, http.client.HTTPException):
            status, text = service.get("/ready")
            if status == 200:
                seen.add(json.loads(text)["pid"])
                continue
        time.sleep(0.05)


def body(query: Any, k: int = K, **asked: Any) -> dict[str, Any]:
    """Return a request."""
    vector = base64.b64encode(np.asarray(query, "<f4").tobytes()).decode()
    return {"vector_base64": vector, "k": k, **asked}


def summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return counts and quantiles of the times."""
    took = [answer.ms for answer in answers if answer.status == 200]
    p50, p95, p99 = np.quantile(took, (0.5, 0.95, 0.99)).tolist() if took else (np.nan,) * 3
    failed = [answer for answer in answers if answer.status != 200]
    return {
        "requests": len(answers),
        "failed": len(failed),
        "first_failure": None if not failed else [failed[0].status, failed[0].body],
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "search_p50_ms": float(np.median([a.body["ms"] for a in answers if a.status == 200]))
        if took
        else None,
    }


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def _pss(pid: int) -> dict[str, Any]:
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) / 1e3
    return {
        "pss_mb": fields["Pss"],
        "anonymous_mb": fields["Pss_Anon"],
        "mapped_mb": fields["Pss_File"] + fields["Pss_Shmem"],
        "rss_mb": fields["Rss"],
    }


def show(figures: dict[str, Any]) -> None:
    """Print what was found."""
    print(f"\n{figures['rows']:,} rows, {figures['workers']} workers, load {figures['facts']['load_1min']}")
    for name in ("one_client", "load", "changing"):
        one = figures[name]
        print(
            f"  {name}: {one['requests']:,} requests, {one['failed']} failed; p50 {one['p50_ms']:.2f} ms, "
            f"p95 {one['p95_ms']:.2f}, p99 {one['p99_ms']:.2f} "
            f"(the search alone: p50 {one['search_p50_ms']:.2f})"
        )
    changing = figures["changing"]
    print(
        f"  {changing['commits']} commits in {changing['seconds']:.0f} s; "
        f"{changing['generations_seen']} generations seen, "
        f"the newest {changing['newest_seen']} of {changing['newest']}; {changing['torn_answers']} of "
        f"{changing['beacon_answers']} beacon answers torn"
    )
    for name in ("memory_one_worker", "memory", "memory_after"):
        memory = figures[name]
        print(
            f"  {name}: {memory['pss_mb']:.0f} MB ({memory['anonymous_mb']:.0f} anonymous, "
            f"{memory['mapped_mb']:.0f} mapped) in {memory['processes']} processes"
        )
