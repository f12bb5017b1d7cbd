"""The files of runs on disk, written and read."""
