"""Finds the clips that pairs are cut from."""
