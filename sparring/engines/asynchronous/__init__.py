"""The trainer's side of the asynchronous engine, without Ray: clock and workers around it are real or virtual."""
