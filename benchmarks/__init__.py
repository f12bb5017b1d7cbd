"""What OPT costs: `python -m benchmarks [PART ...]` from a checkout; docs/performance.md."""
