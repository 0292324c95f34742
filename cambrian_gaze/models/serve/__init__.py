"""A chat endpoint in the form of OpenAI's API: `chat.py` answers requests, `server.py` speaks HTTP."""
