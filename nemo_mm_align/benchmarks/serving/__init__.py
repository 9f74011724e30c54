"""Part ``serving``: the HTTP server as a process, its client in another, a core each."""
