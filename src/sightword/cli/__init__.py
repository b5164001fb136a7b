"""The command line: `sightword <command> key=value …`."""
