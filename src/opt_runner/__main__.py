"""`python -m opt_runner` is opt-run."""

from opt_runner.cli.run import main

main()
