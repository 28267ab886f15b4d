"""What each command does; the words for it are in `sparring.cli`."""
