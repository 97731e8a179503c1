"""The page, by a real Chromium."""
