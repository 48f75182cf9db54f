"""Filtered search: what it finds and what it takes, for many filters, beside unfiltered and exact search.

``cases`` says which filters; ``truth`` finds the exact answers; ``own`` asks this index; ``worker`` is the
process of a peer, an adapter of :mod:`benchmarks.filter_peers`; ``runner`` says what is asked of whom and
when; ``report`` prints and draws it.
"""
