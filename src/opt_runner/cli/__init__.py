"""The commands: opt-run, opt-report, opt-bench."""
