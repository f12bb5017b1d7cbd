"""run.log: what the package, Python's warnings and exceptions say during a run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from opt_runner.files import remove_link

log = logging.getLogger("opt_runner")


class _RunLog(logging.FileHandler):
    """A log whose lines may fail: a full disk must not end the run, or fill the terminal."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextmanager
def run_log(path: Path) -> Iterator[None]:
    """Within the block, log to `path` as well."""
    remove_link(path)
    handler: logging.Handler
    try:
        handler = _RunLog(path, errors="backslashreplace")
    except OSError:
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
