"""Losses, augmentation, checkpoints and the loops that fit the networks."""
