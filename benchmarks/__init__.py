"""Each file but measure.py is a benchmark, a script of its own; python -m benchmarks runs them all."""
