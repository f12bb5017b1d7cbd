"""Methods that differ from plain training in how W starts, and in nothing else."""
