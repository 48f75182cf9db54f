"""What a coarse tier is to be: checked settings, and rotations fitted to vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import msgspec
import numpy as np

from tiered_index.config import MAX_ROTATED_DIM, IndexConfig, Rotation, make_config, one_of
from tiered_index.errors import ParameterError
from tiered_index.rotation import fit_rotation
from tiered_index.storage.rebuild import Wanted
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.vectors import Floats, row_norms

ROTATION_ROWS = 16_384
"""Rows that a rotation is fitted to, at most: 64 MiB of them at 1,024 dimensions."""

SEED = 20

Turn = Literal["keep", "none", "pca"]
"""What becomes of the rotation."""


def decide(settings: Mapping[str, Any], rotation: Turn | None) -> Callable[[Snapshot], Wanted | None]:
    """Return what tells, of an index's newest snapshot, what its coarse tier is to be.

    Parameters
    ----------
    settings : mapping
        Of prefix_dim, graph_degree, ef_construction and tail_sketch; None leaves them.
    rotation : {"keep", "none", "pca"} or None
        None and "none" remove it, "pca" fits one, again if there is one.

    Raises
    ------
    ParameterError
        Nothing is asked for, or a setting is out of range: by the snapshot's, when that is given.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    turn = "none" if rotation is None else one_of("rotation", rotation, get_args(Turn))
    if not given and turn == "keep":
        raise ParameterError(f"rebuild_coarse takes at least one of {', '.join(settings)} and rotation")

    def wanted(snapshot: Snapshot) -> Wanted | None:
        before = snapshot.config
        known = {name: getattr(before, name) for name in ("store_dim", "metric", "dtype", *settings)}
        config = make_config(before.dim, **{**known, **given})
        config = msgspec.structs.replace(config, rotation=before.rotation if turn == "keep" else turn)
        check_tails(config)
        if turn == "pca":
            check_rotated(config, snapshot.rows)
            return Wanted(config, fit(_sample(snapshot), config))
        # graphs of earlier versions have codes of two bytes a dimension
        old = any(entry.has_graph and entry.code == "bf16" for entry in snapshot.manifest.segments)
        return None if config == before and not old else Wanted(config, None)

    return wanted


def check_tails(config: IndexConfig) -> None:
    """Raise ParameterError if a rotation would leave no tail to make sketches of."""
    if config.tail_sketch and config.rotation != "none":
        raise ParameterError(
            "tail_sketch is of the dimensions after the prefix, and a rotated prefix is of all of them: "
            "choose rotation='none' or tail_sketch=False"
        )


def check_rotated(config: IndexConfig, rows: int) -> None:
    """Raise ParameterError unless so many rows are enough to fit a rotation to."""
    check_tails(rotated(config))
    if config.store_dim > MAX_ROTATED_DIM:
        raise ParameterError(
            f"rotation='pca' takes at most {MAX_ROTATED_DIM} dimensions, not {config.store_dim}"
        )
    if rows < config.prefix_dim:
        raise ParameterError(
            f"rotation='pca' needs at least as many rows to fit as prefix_dim={config.prefix_dim}, not {rows}"
        )


def rotated(config: IndexConfig) -> IndexConfig:
    """Return settings with a rotation."""
    kind: Rotation = "pca"
    return msgspec.structs.replace(config, rotation=kind)


def fit(sample: Floats, config: IndexConfig) -> Floats:
    """Fit a rotation to vectors of shape (n, store_dim): under cosine, to their directions."""
    if config.metric == "cosine":
        lengths = row_norms(sample)
        sample = (sample[lengths > 0] / lengths[lengths > 0, None]).astype(np.float32)
        check_rotated(config, len(sample))
    return fit_rotation(sample)


def _sample(snapshot: Snapshot) -> Floats:
    addresses = snapshot.sample(min(ROTATION_ROWS, snapshot.rows), np.random.default_rng(SEED))
    return snapshot.vectors(np.sort(addresses)).astype(np.float32)
