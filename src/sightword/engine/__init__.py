"""What trains any system: its contract, its config, the loop, and the folder of a run."""
