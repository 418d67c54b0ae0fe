"""The process edge: the gunicorn worker, and uvicorn's protocols with what they lack."""
