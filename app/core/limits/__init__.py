"""How much clients may take of one worker: bytes, places and messages."""
