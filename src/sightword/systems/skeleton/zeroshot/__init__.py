"""Zero-shot recognition, measured as its publications do: classes that were never trained, by their words."""
