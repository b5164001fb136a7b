"""Captures of other tools: one reader for each layout, and one writer of the layout that `points` reads."""
