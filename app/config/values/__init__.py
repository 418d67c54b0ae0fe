"""Each kind of value in the file: how it is written, checked and described."""
