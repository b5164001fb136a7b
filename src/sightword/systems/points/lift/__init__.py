"""From posed frames to points: projection, links, pooling, neighbours."""
