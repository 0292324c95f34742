"""What `cambrian-gaze bench` measured: results as JSON, and the pages, pictures and findings that are made of them."""
