"""The tier on disk: full vectors and metadata in one Parquet file, its vectors mapped in place."""
