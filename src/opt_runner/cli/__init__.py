"""The commands: opt-run, opt-report, opt-export, opt-eval, opt-sample, opt-track."""
