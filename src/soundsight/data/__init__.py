"""(sound, picture) pairs: layouts on disk and the training dataset."""
