"""For VectorDBBench: the client and its two configurations."""
