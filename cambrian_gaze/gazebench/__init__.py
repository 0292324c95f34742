"""GazeBench: rendered pages and videos whose questions say which part of the picture each word of the answer needs."""
