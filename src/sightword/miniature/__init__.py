"""Small worlds in the real data sets' formats and tiny towers in the real checkpoint formats: no download anywhere."""
