"""Hydra's plugins of opt-runner. Hydra imports every module here at each start: no torch."""
