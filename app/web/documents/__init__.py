"""The OpenAPI and the AsyncAPI document, made of the channels in force."""
