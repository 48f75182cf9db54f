"""Recall that is watched: a share of live queries is answered exactly, in the background.

::

    search -> onlooker (a coin, an append)        in the caller's time
    samples -> truth -> groups, drift -> report   in a thread of its own, a share of one core
                     -> planner's correction, callback, log, state file

The exact answer is of the generation that answered. Queries of one generation that wait together share a
pass over the vectors.
"""
