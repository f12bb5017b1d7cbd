"""Where the runs of a sweep are executed: this machine's slots, Slurm, Ray."""
