"""Starting workers, asking them, and keeping as many alive as memory allows."""

from __future__ import annotations

import json
import os
import select
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

import psutil

import benchmarks
from benchmarks.environment import held_mb
from benchmarks.peers import SYSTEMS

_SAMPLE_SECONDS = 0.05
_LAST_WORDS = 600
_SPARE_BYTES = 2**30


class WorkerError(Exception):
    """A worker that answered with an error, or died; the message says which."""


class Process:
    """A worker's process.

    Parameters
    ----------
    system : str
        Which system.
    folder, data : Path
        Of its index, and of the data set.
    python : str
        Interpreter.
    worker : str
        Module that is run, of this package.
    """

    def __init__(
        self, system: str, folder: Path, data: Path, python: str, worker: str = "compare.worker"
    ) -> None:
        self._log = folder.parent / f"{system}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        question_end, asking = os.pipe()
        answering, answer_end = os.pipe()
        root = str(Path(benchmarks.__file__).parents[1])
        command = [python, "-m", f"{benchmarks.__name__}.{worker}", str(question_end), str(answer_end)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, system, str(folder.resolve()), str(data.resolve())],
                pass_fds=(question_end, answer_end),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder.parent,
                env={**os.environ, "PYTHONPATH": root},
            )
        os.close(question_end)
        os.close(answer_end)
        self._asking: IO[str] = os.fdopen(asking, "w")
        self._answering: IO[str] = os.fdopen(answering)
        self.pid = self._process.pid
        self.peak_anonymous_mb = 0.0

    def ask(self, do: str, *, sample: bool = False, **arguments: Any) -> dict[str, Any]:
        """Ask, wait, and return the answer; with `sample`, note the peak of the worker's memory.

        Raises
        ------
        WorkerError
            It could not do it, or it died.
        """
        try:
            self._asking.write(json.dumps({"do": do, **arguments}) + "\n")
            self._asking.flush()
        except BrokenPipeError:
            raise self._died(do) from None
        while sample and not select.select([self._answering], [], [], _SAMPLE_SECONDS)[0]:
            with suppress(psutil.Error):  # it may be ending
                now = psutil.Process(self.pid).memory_info()
                self.peak_anonymous_mb = max(self.peak_anonymous_mb, (now.rss - now.shared) / 1e6)
        line = self._answering.readline()
        if not line:
            raise self._died(do)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{do}: {answer['error']}")
        return answer

    def held_mb(self) -> float:
        """Return the worker's memory in MB; of pages that several processes map, its share of each."""
        try:
            return held_mb(self.pid)
        except OSError as error:
            raise WorkerError(str(error)) from error

    def _died(self, do: str) -> WorkerError:
        code = self._process.wait()
        words = " ".join(self._log.read_text(errors="replace").split())[-_LAST_WORDS:]
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return WorkerError(f"{do}: the process {how}" + (f"; it said: {words}" if words else ""))

    def end(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            self._asking.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answering.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class Pool:
    """Workers with open indexes, one a system; the longest unused end when memory runs short.

    Parameters
    ----------
    start : callable
        Starts the worker of a system.
    needed : dict of str to int
        Bytes that a system's index may take in memory.
    """

    def __init__(self, start: Any, needed: dict[str, int]) -> None:
        self._start = start
        self._needed = needed
        self._alive: dict[str, Process] = {}

    def get(self, system: str) -> tuple[Process, bool]:
        """Return a system's worker, and whether it was just opened and so is to be warmed up."""
        if system in self._alive:
            self._alive[system] = self._alive.pop(system)  # the last of a dict was used last
            return self._alive[system], False
        while self._alive and psutil.virtual_memory().available < self._needed[system] + _SPARE_BYTES:
            self._alive.pop(next(iter(self._alive))).end()
        process = self._alive[system] = self._start(system)
        process.ask("open", mapped=False)
        return process, True

    def drop(self, system: str) -> None:
        """End a system's worker, if there is one."""
        if system in self._alive:
            self._alive.pop(system).end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for system in SYSTEMS:
            self.drop(system)
