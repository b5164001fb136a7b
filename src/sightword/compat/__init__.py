"""Other libraries' way of doing things, on top of the systems."""
