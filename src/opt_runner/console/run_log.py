"""run.log: messages of the package, Python's warnings and exceptions during a run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from opt_runner.files import remove_link

log = logging.getLogger("opt_runner")


class _RunLog(logging.FileHandler):
    """A log file whose errors are ignored: a full disk must not end the run."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextmanager
def run_log(path: Path) -> Iterator[None]:
    """Log to `path` as well, within the block."""
    remove_link(path)
    handler: logging.Handler
    try:
        handler = _RunLog(path, errors="backslashreplace")
    except OSError:
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [log, logging.getLogger("py.warnings")]
    log.setLevel(min(logging.INFO, log.getEffectiveLevel()))  # DEBUG with hydra.verbose=true
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
        with suppress(OSError):  # the disk is full
            handler.close()
