"""hydra/launcher=slurm: a job a run, in arrays, submitted by submitit.

What counts is on disk: a run is done when its result is. Which job a run has is kept in its record
(`job.json`), so that the same command finds jobs that still wait or run, and submits no others.
"""
