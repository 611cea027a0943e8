"""Removing what a mask removes: pure functions from parameters to parameters, and checkpoints that load."""
