"""The config of a run: its schema, how it is composed and checked, its signature."""
