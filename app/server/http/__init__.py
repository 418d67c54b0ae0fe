"""HTTP/1.1 connections, from their first byte until they end or become a link."""
