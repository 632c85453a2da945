"""From tables to figures; nothing here runs anything."""
