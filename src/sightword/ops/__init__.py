"""Functions of tensors that several systems share."""
