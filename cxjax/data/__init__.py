"""Pictures on disk and arrays in memory."""
