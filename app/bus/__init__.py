"""How messages are stored and reach other processes. Read :mod:`app.bus.backend` first."""
