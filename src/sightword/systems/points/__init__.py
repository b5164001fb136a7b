"""CLIP features on a 3-D point cloud, fused with its geometry. Source: document 004."""
