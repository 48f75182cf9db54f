"""Power cuts and flipped bytes, for this index and for others: ``python -m benchmarks.durability 30 WORK``.

A power cut: rows are added in small batches on an ext4 file system that is cut off at a random moment (needs
root and a loop device); then the store is opened again. A flipped byte: one byte of a store that was
closed is changed, at a random place of each of its files in turn; then all rows are read and searched for.
Every look is in a process of its own, so that one that dies is seen. Stores that are not installed are
left out.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.durability_peers import BATCH, PEERS, VARIANTS, look, module, write
from benchmarks.environment import facts
from tests.faults.killed import FORKED, Child
from tests.faults.power_cut import Disk, cut_under, why_not

_BATCHES = 20
_MEGABYTES = 2_048
_PATIENCE_SECONDS = 60.0
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a private folder is made in it


def run(cuts: int, flips: int, work: Path) -> dict[str, Any]:
    """Try every store that is installed."""
    work.mkdir(parents=True, exist_ok=True)
    stores: dict[str, Any] = {}
    # Imported once, and not in every child; what is not installed is passed over there. LanceDB warns
    # against a fork after its import.
    modules = {variant.module for variant in VARIANTS.values()} - {"lance"}
    FORKED.set_forkserver_preload([f"{PEERS}.{name}" for name in sorted(modules)])
    for name in VARIANTS:
        try:
            package = module(name).PACKAGE
        except ImportError as error:
            stores[name] = {"left_out": str(error)}
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        stores[name] = {"version": f"{package} {version(package)}"}
        if VARIANTS[name].flips:
            with tempfile.TemporaryDirectory(dir=work) as folder:
                stores[name]["flips"] = _tally(flip_trials(name, flips, Path(folder)))
        reason = why_not()
        if reason is None:
            stores[name]["cuts"] = _tally(cut_trials(name, cuts))
        else:
            stores[name]["cuts"] = {"left_out": reason}
    return {"facts": facts(), "batches": _BATCHES, "rows_a_batch": BATCH, "stores": stores}


def _tally(outcomes: list[str]) -> dict[str, Any]:
    examples: dict[str, str] = {}
    for outcome in outcomes:
        examples.setdefault(outcome.partition(":")[0], outcome)
    kinds = Counter(outcome.partition(":")[0] for outcome in outcomes)
    return {
        "trials": len(outcomes),
        **kinds,
        "examples": {kind: text for kind, text in examples.items() if text != kind},
    }


def cut_trials(name: str, number: int) -> list[str]:
    """Return what became of a store in each of `number` power cuts."""
    chance = random.Random(number)  # noqa: S311 - moments, no secrets
    outcomes = []
    parent = _IN_MEMORY if _IN_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        disk = Disk(Path(folder), _MEGABYTES)
        try:
            within = _write_all(name, disk.folder / "whole")
            shutil.rmtree(disk.folder / "whole")
            for trial in range(number):
                store = disk.folder / str(trial)
                child = Child(write, name, store, _BATCHES, False)
                child.ready()
                messages = cut_under(disk, child, within, chance, "defaults")
                acknowledged = sum(message.isdigit() for message in messages)
                outcomes.append(_look(name, store, acknowledged))
                shutil.rmtree(store, ignore_errors=True)
        finally:
            disk.close()
    return outcomes


def flip_trials(name: str, number: int, work: Path) -> list[str]:
    """Return what became of a store in each of `number` trials with one byte flipped."""
    chance = random.Random(number)  # noqa: S311 - places, no secrets
    sound = work / "sound"
    _write_all(name, sound)
    copy = work / "copy"
    files = [p.relative_to(sound) for p in sorted(sound.rglob("*")) if p.is_file() and p.stat().st_size]
    outcomes = []
    for trial in range(number):
        subprocess.run(["cp", "-a", "--sparse=always", str(sound), str(copy)], check=True)
        path = copy / files[trial % len(files)]
        with path.open("r+b") as file:
            at = chance.randrange(path.stat().st_size)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ chance.randrange(1, 256)]))
        outcome = _look(name, copy, _BATCHES)
        # rows missing from a store that was whole are answers that are wrong
        outcomes.append(outcome.replace("lost:", "wrong: lost") + f" ({path.name}, byte {at})")
        shutil.rmtree(copy)
    return [outcome if not outcome.startswith("right") else "right" for outcome in outcomes]


def _write_all(name: str, folder: Path) -> float:
    """Write a whole store, see that it is right, and return how many seconds the writing took."""
    child = Child(write, name, folder, _BATCHES, True)
    child.ready()
    start = monotonic()
    child.go()
    child.wait(_PATIENCE_SECONDS)
    seconds = monotonic() - start
    messages = child.kill()
    if messages[-1:] != [b"closed"]:
        raise RuntimeError(f"{name}: {messages[-1:]}")
    outcome = _look(name, folder, _BATCHES)
    if outcome != "right":
        raise RuntimeError(f"{name}: a sound store is {outcome}")
    return seconds


def _look(name: str, folder: Path, acknowledged: int) -> str:
    child = Child(look, name, folder, acknowledged)
    child.ready()
    child.go()
    ended = child.wait(_PATIENCE_SECONDS)
    code = child.exit_code
    messages = child.kill()
    if messages:
        return messages[0].decode()
    return f"died: exit code {code}" if ended else "hung:"


def show(figures: dict[str, Any]) -> None:
    """Print a table, and everything as JSON."""
    columns = ("right", "error", "lost", "wrong", "died", "hung")
    for kind, title in (("cuts", "power cuts"), ("flips", "flipped bytes")):
        print(f"{title:45}" + "".join(f"{column:>7}" for column in columns))
        for name, store in figures["stores"].items():
            found = store.get(kind, {}) if "version" in store else store
            if "left_out" in found:
                print(f"{name:45}  left out: {found['left_out']}")
            elif found:
                print(f"{name:45}" + "".join(f"{found.get(column, 0):7}" for column in columns))
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durability", description=__doc__)
    parser.add_argument("power_cuts", type=int, help="how many a store")
    parser.add_argument("work", type=Path, help="folder for stores; emptied again")
    parser.add_argument("--flips", type=int, default=100, help="how many bytes are flipped a store")
    arguments = parser.parse_args()
    show(run(arguments.power_cuts, arguments.flips, arguments.work))


if __name__ == "__main__":
    main()
