"""The YAML files of experiments, scales and presets; their schema is `sightword.engine.config`."""
