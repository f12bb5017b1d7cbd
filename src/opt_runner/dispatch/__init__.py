"""Dispatch of the runs of a sweep: to this machine's slots, to Slurm, to Ray."""
