"""A search service: several worker processes on one index, and a writer elsewhere.

::

    pip install 'tiered-index[service]'
    SERVICE_INDEX=news.tidx python examples/service/serve.py --workers 4

Each worker opens the index to read. Codes, graphs and vectors are mapped files, so the workers share one
copy. Whoever writes does so in another process; every worker looks for a newer generation each second, and
at once on SIGUSR1, while requests under way keep the one they began with.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, ConfigDict

import tiered_index as ti
from tiered_index.integrations.prometheus import collect

INDEX = os.environ.get("SERVICE_INDEX", "news.tidx")
PROFILES = os.environ.get("SERVICE_PROFILES", "{}")
"""Budgets by name, as JSON: {"interactive": {"latency_ms": 5}, "legal": {"min_recall": 0.99}}."""

WATCH_RATE = float(os.environ.get("SERVICE_WATCH_RATE", "0.01"))
"""Share of the queries whose recall is watched; 0 watches none."""

REFRESH_SECONDS = float(os.environ.get("SERVICE_REFRESH_SECONDS", "1"))
WORKERS = int(os.environ.get("WEB_CONCURRENCY", "1"))
"""So that all workers together search with as many threads as there are cores."""

log = logging.getLogger("service")


class Query(BaseModel):
    """What a client asks: a vector, as numbers or as the base64 of little-endian float32, and a budget."""

    model_config = ConfigDict(extra="forbid")

    vector: list[float] | None = None
    vector_base64: str | None = None
    k: int = 10
    latency_budget_ms: float | None = None
    min_recall: float | None = None
    profile: str | None = None
    tag: str | None = None
    where: dict[str, Any] | None = None
    strict: bool = False
    metadata: bool = False


class Service:
    """One worker's index, and the threads that search it."""

    def __init__(self) -> None:
        self.index = ti.open(INDEX, mode="r")
        self.index.profiles = {name: ti.Budget(**budget) for name, budget in json.loads(PROFILES).items()}
        self._warm()
        self.registry = CollectorRegistry()
        collect(self.index, self.registry, processes=True)
        if WATCH_RATE:
            # the core is shared by all workers, and so is what watching may take of it
            self.index.watch(WATCH_RATE, share=0.25 / WORKERS, state_seconds=2)
        self.threads = anyio.CapacityLimiter(max((os.cpu_count() or 1) // WORKERS, 1))
        self.asked = asyncio.Event()
        self.trouble: str | None = None

    def search(self, query: Query) -> dict[str, Any]:
        """Answer a query; in a thread."""
        result = self.index.search(
            vector_of(query),
            query.k,
            latency_budget_ms=query.latency_budget_ms,
            min_recall=query.min_recall,
            profile=query.profile,
            strict=query.strict,
            where=query.where,
            tag=query.tag,
        )
        answer = {
            "ids": result.ids.tolist(),
            "scores": result.scores.tolist(),
            "generation": result.generation,
            "complete": result.complete,
            "degraded_reason": result.degraded_reason,
            "estimated_recall": result.estimated_recall,
            "strategy": result.plan.strategy,
            "ms": round(result.stats.total_ms, 3),
        }
        if query.metadata:
            answer["metadata"] = result.metadata.to_pylist()
        return answer

    async def follow(self) -> None:
        """Move to each newer generation; requests under way keep theirs."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.asked.wait(), REFRESH_SECONDS)
            self.asked.clear()
            try:
                await anyio.to_thread.run_sync(self.index.refresh)
                self.trouble = None
            except ti.TieredIndexError as error:  # answers go on from the generation that is open
                self.trouble = str(error)
                log.warning("cannot move to the newest generation: %s", error)

    def _warm(self) -> None:
        """Search once, so that the first client does not wait for the compiled walk to be loaded."""
        rows = self.index.get(where={}, limit=1, include_vectors=True)
        if rows.num_rows:
            first = np.zeros(self.index.config.dim, np.float32)
            stored = np.asarray(rows["vector"][0].values, np.float32)
            first[: len(stored)] = stored
            self.index.search(first)


def vector_of(query: Query) -> Any:
    """Return a query's vector; raise DimensionError unless it has one."""
    if (query.vector is None) == (query.vector_base64 is None):
        raise ti.DimensionError("give one of vector and vector_base64")
    if query.vector_base64 is None:
        return np.array(query.vector, np.float32)
    try:
        data = base64.b64decode(query.vector_base64, validate=True)
        return np.frombuffer(data, "<f4")
    except (binascii.Error, ValueError) as error:
        raise ti.DimensionError(f"vector_base64 must be little-endian float32: {error}") from error


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the index, follow its generations, and close it after the last request."""
    service = app.state.service = Service()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, service.asked.set)
    following = asyncio.create_task(service.follow())
    yield
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following
    service.index.close()


app = FastAPI(title="tiered-index", lifespan=lifespan)


@app.post("/search")
async def search(query: Query, request: Request) -> JSONResponse:
    """Find the best k rows."""
    service: Service = request.app.state.service
    answer = await anyio.to_thread.run_sync(service.search, query, limiter=service.threads)
    return JSONResponse(answer)


@app.get("/health")
async def health() -> dict[str, Any]:
    """Say that the process answers."""
    return {"status": "ok", "pid": os.getpid()}


@app.get("/ready")
async def ready(request: Request) -> dict[str, Any]:
    """Say which generation is served; there is none before the index is open and warm."""
    service: Service = request.app.state.service
    stats = await anyio.to_thread.run_sync(service.index.stats)
    return {
        "pid": os.getpid(),
        "generation": stats.generation,
        "rows": stats.rows,
        "trouble": service.trouble,
    }


@app.get("/metrics")
async def metrics(request: Request) -> Response:
    """Give Prometheus the numbers of all workers, whichever of them answers."""
    service: Service = request.app.state.service
    text = await anyio.to_thread.run_sync(generate_latest, service.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@app.exception_handler(ti.TieredIndexError)
async def refused(_: Request, error: ti.TieredIndexError) -> JSONResponse:
    """Say what is wrong: with the question (422), with the time it gave (504), or with the index (503)."""
    status = (
        422
        if isinstance(error, ti.InvalidInputError)
        else 504
        if isinstance(error, ti.BudgetNotMetError)
        else 503
    )
    return JSONResponse({"error": type(error).__name__, "message": str(error)}, status_code=status)
