"""Real servers and faults for the tests to run against."""
