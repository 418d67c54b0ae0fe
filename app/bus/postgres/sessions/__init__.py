"""Sessions with PostgreSQL: how they are made, lent and closed, and what their errors mean."""
