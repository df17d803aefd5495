"""One operation, several implementations: for every target, the best similarity of any source."""
