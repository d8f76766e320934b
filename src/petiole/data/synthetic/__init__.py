"""Data that is drawn, not collected: scenes, boards, digits."""
