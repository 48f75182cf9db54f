"""Adapters for harnesses that other people run.

``baseann``
    Copy the folder to ``ann_benchmarks/algorithms/tiered_index`` of ann-benchmarks, or to
    ``vibe/algorithms/tiered_index`` of VIBE and rename ``vibe.yml`` to ``config.yml`` there.
``vectordbbench``
    A client for VectorDBBench, whose list of databases is fixed: copy the folder to
    ``vectordb_bench/backend/clients/tiered_index``, and name it in the enumeration ``DB`` beside it and
    in that enumeration's ``init_cls``, ``config_cls`` and ``case_config_cls``.
"""
