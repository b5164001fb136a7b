"""Skeletons of the people in videos."""
