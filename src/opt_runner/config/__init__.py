"""The config of a run: its schema, composition, checks and signature.

Nothing here imports torch when it is imported: `--help` and completion must answer at once.
"""
