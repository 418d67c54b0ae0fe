"""Who may: tokens and the keys that verify them, what was taken back, and the application that is asked."""
