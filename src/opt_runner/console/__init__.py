"""Output for people: the terminal, a run's log."""
