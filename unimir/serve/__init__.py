"""One Ray Serve application that answers search requests."""
