"""How methods are compared: domain shift with k target shots."""
