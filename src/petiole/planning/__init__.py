"""What work will take on machines that one does not have yet, from what its parts cost here."""
