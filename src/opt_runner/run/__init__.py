"""One run: from a checked config to a result on disk."""
