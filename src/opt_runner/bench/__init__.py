"""opt-bench: what OPT costs, against plain training and against every alternative."""
