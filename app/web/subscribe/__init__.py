"""Subscribers: who is admitted, and in which form they are told."""
