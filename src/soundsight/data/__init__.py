"""(sound, picture) pairs: layouts on disk and the training dataset.

Everywhere here what is missing or damaged raises a DataError, what cannot be written an
OutputError, and a setting that cannot be a ConfigError, each in one line for the user.
"""
