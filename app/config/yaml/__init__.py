"""YAML into plain data that knows its lines and columns."""
