"""The bounded queue: ledger, codec, Redis transport and an embedded server."""
