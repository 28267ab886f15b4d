"""The files in deploy/ against the schemas of those who read them."""
