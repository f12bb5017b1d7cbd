"""One run from its config to its record, and sweeps of many."""
