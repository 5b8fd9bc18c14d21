"""The server: the live page, the file page, the REST API and the stream."""
