"""How brokers are reached, what is asked of them, and what their errors mean."""
