"""Why was this photo posted? 28 intents, read through five codebooks whose codes are words."""
