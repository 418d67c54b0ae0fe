"""Other servers that are asked: the login for its keys, and the application that decides."""
