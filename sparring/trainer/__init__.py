"""The trainer: steps, schedules, snapshots, checkpoints and the loop that consumes shards."""
