"""The training engine that all systems share: contract, config, training loop, run directory."""
