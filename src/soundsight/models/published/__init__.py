"""The published system's networks, and its checkpoints."""
