"""Lift CLIP's features from posed images onto a point cloud, and fuse them with its geometry."""
