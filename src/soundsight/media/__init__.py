"""Sound and video in, log-mel out; toy sounds and scenes. NumPy only."""
