"""Trackers: Weights & Biases, TensorBoard, CSV, MLflow, and those of users."""

from opt_runner.tracking.rows import scalars
from opt_runner.tracking.tracker import Tracker, Trackers, check, hints, send, start

__all__ = ["Tracker", "Trackers", "check", "hints", "scalars", "send", "start"]
