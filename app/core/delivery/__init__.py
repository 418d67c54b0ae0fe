"""From a batch of the log to every subscription of this process."""
