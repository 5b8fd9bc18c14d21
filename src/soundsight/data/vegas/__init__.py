"""The VEGAS bench and the authors' batches."""
