"""Readers of key points as other tools and data sets write them: a file for each format, listed in `known`."""
