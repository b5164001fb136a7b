"""Controls: classifiers without a video encoder, which a recogniser of skeletons has to beat."""
