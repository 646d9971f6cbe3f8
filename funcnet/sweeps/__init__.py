"""Many runs at once: where to look, and what was found."""
