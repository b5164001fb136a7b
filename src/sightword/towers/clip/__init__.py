"""CLIP, as open_clip keeps it."""
