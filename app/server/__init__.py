"""The edge of the process: the gunicorn worker, the server, and the protocols that uvicorn runs."""
