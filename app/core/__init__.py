"""What the server means. Standard library only: no sockets, SQL, HTTP, logging or environment."""
