"""Workers own attacks: ticket and weights in, shard out."""
