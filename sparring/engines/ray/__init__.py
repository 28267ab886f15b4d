"""The asynchronous engine: everything that imports Ray."""
