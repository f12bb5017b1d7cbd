"""The commands: opt-run, opt-report, opt-export, opt-eval, opt-track."""
