"""Formats of one's own images and captions: one file for each, and `layout`, which finds out which it is."""
