"""What joins howl to other software on a user's own machines."""
