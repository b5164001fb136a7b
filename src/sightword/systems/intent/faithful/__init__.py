"""How far the words of an intent model can be trusted: `sightword faithful`. See `protocol.py`."""
