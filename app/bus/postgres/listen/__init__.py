"""How a worker hears of commits, and finds the ones that it did not hear of."""
