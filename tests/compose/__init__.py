"""docker-compose.yml in containers of the caller's Docker Engine: make compose-test."""
