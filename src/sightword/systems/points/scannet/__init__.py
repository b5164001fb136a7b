"""ScanNet as its files lie on disk."""
