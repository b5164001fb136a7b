"""Name the action of a moving skeleton by comparing it with the action's words. Source: document 002."""
