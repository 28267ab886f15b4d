"""What watches a training run and acts where it goes wrong."""
