"""SigLIP and SigLIP 2, as open_clip and as Hugging Face keep them."""
