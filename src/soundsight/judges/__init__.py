"""The networks that judge pictures, and how they are fitted and applied."""
