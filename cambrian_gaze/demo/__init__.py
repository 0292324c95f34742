"""Talking to a model and seeing its gaze: `talk.py` answers token by token, `conversation.py` keeps the turns,
`compare.py` runs dense, gaze and eviction beside each other. `app.py` is the page on Gradio, `terminal.py` the
terminal."""
