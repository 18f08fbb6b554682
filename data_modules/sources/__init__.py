"""Where pictures and questions come from: drawn twins, or folders on disk."""
