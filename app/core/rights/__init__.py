"""What callers may: policies, and what keys and tokens give."""
