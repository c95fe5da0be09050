"""Pictures in: TFDS builders, random crops, and the grain pipeline."""
