"""What happens between the gradient and the optimiser: one file for every rule that needs the loss again."""
