"""Name the action of a moving skeleton by comparing it with its words. Source: document 002."""
