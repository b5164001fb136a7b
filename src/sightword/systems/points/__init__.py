"""CLIP's words on a cloud of points: features of posed frames lifted onto it and fused with its geometry."""
