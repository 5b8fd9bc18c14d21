"""Listening to a live sound on this machine."""
