"""Container engines over their Unix sockets: Docker, and Podman's Docker-compatible API."""
