"""A user's package: networks and a dataset that opt-run knows by `--config-dir` alone."""
