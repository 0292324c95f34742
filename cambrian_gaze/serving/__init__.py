"""A chat endpoint in the form of OpenAI's API: `fields.py` and `media.py` check a request, `chat.py` answers it,
`stop.py` ends answers at stop texts, `app.py` speaks HTTP on Starlette, `protocol.py` bounds what slow clients may
take, and `server.py` runs it all on uvicorn."""
