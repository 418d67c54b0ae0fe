"""What reads of the log have in common on all engines: which wait together, and how long one may take."""
