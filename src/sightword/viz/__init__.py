"""Figures drawn from arrays with PIL and NumPy alone."""
