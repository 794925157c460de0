"""One small module for each kind of evidence; none of them knows what is approved."""
