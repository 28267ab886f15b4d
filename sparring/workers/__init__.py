"""What a worker does: it attacks the examples of a ticket under given weights and makes a shard of them."""
