"""A user's own files in folders: found, decoded once, cached."""
