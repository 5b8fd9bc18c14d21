"""The dataset on disk or at a URL: written, read, verified."""
