"""Synthetic datasets and tiny encoders in the formats of the real ones, for demos and tests without a network."""
