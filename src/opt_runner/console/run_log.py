"""run.log: what the package, Python's warnings and exceptions say during a run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger("opt_runner")


@contextmanager
def run_log(path: Path) -> Iterator[None]:
    """Within the block, log to `path` as well."""
    handler: logging.Handler
    try:
        handler = logging.FileHandler(path)
    except OSError:  # of a full disk the run's result tells
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [log, logging.getLogger("py.warnings")]
    log.setLevel(logging.INFO)
    logging.captureWarnings(True)
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        logging.captureWarnings(False)
        with suppress(OSError):  # what did not fit on the disk
            handler.close()
