"""Files and folders: written whole or not at all, read within bounds without executing anything in them."""
