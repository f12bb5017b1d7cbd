"""What a person sees: the terminal, Weights & Biases, a run's log."""
