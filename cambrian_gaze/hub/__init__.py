"""A trained model for the Hugging Face hub: its card and its upload."""
