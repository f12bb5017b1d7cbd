"""A person's own images in folders: what lies there, decoded once, cached."""

from opt_runner.datasets.folder.image_folder import ImageFolder

__all__ = ["ImageFolder"]
