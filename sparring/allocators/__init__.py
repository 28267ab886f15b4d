"""Who gets how many attack steps."""
