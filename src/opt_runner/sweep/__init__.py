"""Sweeps: grids, searches, fair comparisons."""
