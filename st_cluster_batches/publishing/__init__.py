"""Cards, folders ready to be published, and the Hub."""
