"""What comes in: ids, vectors and metadata are checked here, whole, before anything is written."""
