"""The index folder: segments of rows, and the manifests that name them.

::

    news.tidx/
      lock                        held by the writer, never removed
      rotation-<token>.npy        what vectors are turned by before prefixes are cut, if they are
      manifests/000000000007.json one file a generation: settings, encoder, columns, segments, digests
      segments/<name>/
        rows.parquet              id, metadata columns, full vectors (mapped in place)
        coarse.faiss              codes of the prefixes, and their HNSW graph
        coarse-<token>.faiss      the same, rebuilt with other settings from the same vectors
        tail.sketch               bits of what follows the prefixes, to order candidates by, if asked for
        tail-<token>.sketch       the same, made later from the same vectors
        lookup.arrow              ids by row, rows by id, inverse norms
        columns.roaring           rows of each value, of columns of few values; not in every segment
        deleted-<token>.roaring   rows deleted since, as of one generation or another

Files are never changed once written. A commit writes new ones under new names, syncs them and their
folders, and then links a manifest into place: the one step that makes them part of the index.
"""
