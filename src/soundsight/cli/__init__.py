"""The command line; torch rooms are imported inside the commands that need them."""
