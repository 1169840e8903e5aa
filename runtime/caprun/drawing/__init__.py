"""Pictures of captions and of attention."""
