"""Data that is drawn, not collected: synthetic scenes, synthetic boards, digits."""
