"""The config of a run: its schema, composition, checks and signature."""
