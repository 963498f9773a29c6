"""What the scripts share. README, "Where things are", says what is in which module."""
