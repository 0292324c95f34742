"""Chat messages, pictures and videos to the model's tensors."""
