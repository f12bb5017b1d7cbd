"""What holds for all tests, whether one process runs them or several side by side."""

import os

# The workers of pytest-xdist share the cores: each of them, and each command that it starts, has
# its part. It must be set before torch is imported. A test about threads sets their number itself.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))
