"""Find the person a sentence describes: phases 1 to 4, the last learns by predicting masked image codes."""
