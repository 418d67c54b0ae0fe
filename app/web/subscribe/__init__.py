"""Subscribing: which requests are admitted, and in which form messages are sent."""
