"""The OpenAPI and the AsyncAPI document, generated from the channels in force."""
