"""The Everyday collection of sounds and photos."""
