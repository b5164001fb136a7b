"""Find the person whom a sentence describes. Source: document 001."""
