"""Output for people: the terminal, Weights & Biases, a run's log."""
