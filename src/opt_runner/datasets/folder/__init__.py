"""A user's own images in folders: found, decoded once, cached."""

from opt_runner.datasets.folder.image_folder import ImageFolder

__all__ = ["ImageFolder"]
