"""Pictures read from the gradients of a vision transformer's patch and position embeddings."""
