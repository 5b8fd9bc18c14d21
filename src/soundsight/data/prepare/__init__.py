"""From clips to a dataset of pairs."""
