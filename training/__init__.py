"""Training of adapters; for now the preparing of data sets."""
