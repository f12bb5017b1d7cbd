"""hydra/launcher=slurm: a job for each run, in arrays, submitted by submitit.

A run is done when its result is on disk. Its record names its job (`job.json`), so that the same
command finds jobs that wait or run, and does not submit them again.
"""
