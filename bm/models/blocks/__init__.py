"""Small modules shared by several models; each takes and returns plain tensors."""
