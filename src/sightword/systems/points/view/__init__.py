"""A window onto a scene, by viser: `sightword view`."""
