"""Pictures for people: contact sheets. No torch."""
