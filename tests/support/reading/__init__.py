"""One byte stream, read by several parties: the requests of the corpus, and what each party makes of them."""
