"""An independent comparison of both sides: decoded values, never the copier's own bytes."""
