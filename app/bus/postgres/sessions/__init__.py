"""Sessions with PostgreSQL: how they are made, and what their errors mean."""
