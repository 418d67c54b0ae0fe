"""The file: where it may be, who uses it, how it is opened, and what its errors mean."""
