"""A chat endpoint in the form of OpenAI's API: `chat.py` answers requests, `stop.py` ends them at stop texts, and
`server.py` speaks HTTP."""
