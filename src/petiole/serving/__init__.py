"""Many adapters over one backbone."""
