"""Pictures of where a model looked, and self-contained HTML reports. The overlays need Pillow only."""
