"""Files and folders: written whole or not at all, read within bounds, locked, and shared out among processes."""
