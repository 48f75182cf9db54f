"""The truth about a model's prefixes: what each finds, keeps and costs, and whether leading ones are special.

::

    run -> verdict -> report (page, charts)
    run -> ranks, intervals, energy, qrels, sample
    quick: the same in a second, for the end of an ingestion
"""

from tiered_index.fitness.report import Fitness
from tiered_index.fitness.run import fitness

__all__ = ["Fitness", "fitness"]
